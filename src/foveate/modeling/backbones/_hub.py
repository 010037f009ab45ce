"""How the errors of others are told."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from huggingface_hub import is_offline_mode
from huggingface_hub.errors import LocalEntryNotFoundError

from foveate.errors import HubUnreachable, WeightsError
from foveate.modeling.backbones import Family


class HubFamily(Family):
    """Backbones that are named by a prefix and a place, which is a folder or a name on the hub. `known`: such names, and the
    licences of their cards."""

    prefix: ClassVar[str]
    licenses: ClassVar[dict[str, str]]

    def knows(self, name: str) -> bool:
        return name.startswith(self.prefix)

    def resolve_name(self, name: str) -> str:
        folder = Path(self.location(name)).expanduser()
        return self.prefix + str(folder.resolve()) if folder.is_dir() else name

    def location(self, name: str) -> str:
        return name.removeprefix(self.prefix)

    def license(self, name: str) -> str:
        return self.licenses.get(self.location(name), "not stated")

    def origin(self, name: str) -> str:
        """Where the weights come from, in words."""
        place = self.location(name)
        return f"{'folder' if Path(place).is_dir() else 'hub'}: {place}"


def hub_error(what: str, error: Exception, hint: str) -> WeightsError:
    """The hub's client raises errors of its own, of requests, of httpx and plain OSErrors: one sentence for all of them."""
    lost = isinstance(error, LocalEntryNotFoundError) and not is_offline_mode()
    return (HubUnreachable if lost else WeightsError)(
        f"{what} could not be had from the hub", why=first_line(error), hint=hint
    )


def first_line(error: Exception) -> str:
    """Of what it says; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
