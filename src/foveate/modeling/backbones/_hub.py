"""Backbones from a folder or the Hugging Face Hub: their names, and errors of the download."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from huggingface_hub import constants, get_session, is_offline_mode
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from foveate.errors import HubUnreachable, WeightsError
from foveate.modeling.backbones import Family

_TIMEOUT = 5.0  # seconds for the hub to answer
_REMEMBERED = 60.0  # seconds in which a hub that did not answer is not asked again


class HubFamily(Family):
    """Backbones named by a prefix and a location, which is a folder or a name on the hub.

    Attributes:
        prefix: The prefix.
        licenses: License of the weights by well-known name on the hub, as its model card states it.
    """

    prefix: ClassVar[str]
    licenses: ClassVar[dict[str, str]]

    def knows(self, name: str) -> bool:
        return name.startswith(self.prefix)

    def resolve_name(self, name: str) -> str:
        folder = Path(self.location(name)).expanduser()
        return self.prefix + str(folder.resolve()) if folder.is_dir() else name

    def location(self, name: str) -> str:
        """Return the folder or the name on the hub."""
        return name.removeprefix(self.prefix)

    def license(self, name: str) -> str:
        return self.licenses.get(self.location(name), "not stated")

    def origin(self, name: str) -> str:
        """Return where the weights come from, as shown to the user."""
        location = self.location(name)
        return f"{'folder' if Path(location).is_dir() else 'hub'}: {location}"


@contextmanager
def hub_access(local: bool = False) -> Iterator[None]:
    """Fail within seconds in this block where the hub does not answer.

    Its client would try for most of a minute, and report each time. Files in its cache are found
    all the same.

    Args:
        local: Whether everything is in a folder, so that the hub is not needed.
    """
    problem = "" if local or is_offline_mode() else _hub_problem()
    client, offline = logging.getLogger("huggingface_hub"), constants.HF_HUB_OFFLINE
    level = client.level
    client.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = bool(offline or problem)
    try:
        yield
    except Exception as error:
        if problem and _was_offline(error):
            raise NoAnswer(problem) from error
        raise
    finally:
        constants.HF_HUB_OFFLINE = offline
        client.setLevel(level)


class NoAnswer(Exception):
    """The hub does not answer, and what was wanted is not in the cache."""


def _was_offline(error: BaseException | None) -> bool:
    """Whether a file was missing in the cache of the client, perhaps as the cause of an error."""
    while error is not None:
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return True
        error = error.__cause__ or error.__context__
    return False


_unreachable_until = 0.0  # seconds of `time.monotonic()`


def _hub_problem() -> str:
    """Why the hub cannot be reached; empty if it answers. A failure is remembered for a while."""
    global _unreachable_until
    host = constants.ENDPOINT
    problem = f"{host} does not answer"
    if time.monotonic() < _unreachable_until:
        return problem
    try:
        get_session().head(host, timeout=_TIMEOUT)
    except Exception:  # of the library for HTTP, which differs between versions of the client
        _unreachable_until = time.monotonic() + _REMEMBERED
        return problem
    return ""


def hub_error(what: str, error: Exception, hint: str) -> WeightsError:
    """Turn an error of the hub's client into one of ours.

    The client raises errors of its own, of requests, of httpx, and plain OSErrors.

    Args:
        what: What was to be loaded ("the weights of 'resnet18'").
        error: The error.
        hint: What to try.
    """
    unreachable = isinstance(error, LocalEntryNotFoundError) and not is_offline_mode()
    return (HubUnreachable if unreachable or isinstance(error, NoAnswer) else WeightsError)(
        f"{what} could not be loaded from the hub", why=first_line(error), hint=hint
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
