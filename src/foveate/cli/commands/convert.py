"""foveate convert."""

from foveate.api.convert import convert
from foveate.cli.command import Command

COMMAND = Command(convert, "foveate convert bccd --to coco --out bccd_coco", options=("to", "out"))
