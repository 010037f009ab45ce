"""foveate cache."""

from foveate.api.cache import cache
from foveate.cli.command import Command

COMMAND = Command(cache, "foveate cache")
