"""Backbones from a folder or the Hugging Face Hub: their names, and errors of the download."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from huggingface_hub import is_offline_mode
from huggingface_hub.errors import LocalEntryNotFoundError

from foveate.errors import HubUnreachable, WeightsError
from foveate.modeling.backbones import Family


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


def hub_error(what: str, error: Exception, hint: str) -> WeightsError:
    """Turn an error of the hub's client into one of ours.

    The client raises errors of its own, of requests, of httpx, and plain OSErrors.

    Args:
        what: What was to be loaded ("the weights of 'resnet18'").
        error: The error.
        hint: What to try.
    """
    unreachable = isinstance(error, LocalEntryNotFoundError) and not is_offline_mode()
    return (HubUnreachable if unreachable else WeightsError)(
        f"{what} could not be loaded from the hub", why=first_line(error), hint=hint
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
