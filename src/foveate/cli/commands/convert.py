"""foveate convert."""

from foveate.api.convert import convert
from foveate.cli.command import Command


def _writable() -> list[str]:
    from foveate.registry import Registry

    return Registry("foveate.data.formats", object, "format").stating("writes")


COMMAND = Command(
    convert,
    "foveate convert bccd --to coco --out bccd_coco",
    options=("to", "out"),
    values={"to": _writable},
)
