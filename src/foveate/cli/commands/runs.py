"""foveate runs."""

from foveate.api.runs import runs
from foveate.cli.command import Command

COMMAND = Command(runs, "foveate runs")
