"""How the errors of others are told."""

from __future__ import annotations

from huggingface_hub import is_offline_mode
from huggingface_hub.errors import LocalEntryNotFoundError

from foveate.errors import HubUnreachable, WeightsError


def not_had(what: str, error: Exception, hint: str) -> WeightsError:
    """The hub's client raises errors of its own, of requests, of httpx and plain OSErrors: one sentence for all of them."""
    lost = isinstance(error, LocalEntryNotFoundError) and not is_offline_mode()
    return (HubUnreachable if lost else WeightsError)(f"{what} could not be had from the hub", why=first_line(error), hint=hint)


def first_line(error: Exception) -> str:
    """Of what it says; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
