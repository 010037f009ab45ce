"""foveate demo."""

from foveate.api.demo import demo
from foveate.cli.command import Command

COMMAND = Command(demo, "foveate demo", options=("out",))
