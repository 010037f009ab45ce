"""Tags of whole images in the files of annotation tools, as classes.

Choices of Label Studio, tags of CVAT and Supervisely, flags of LabelMe, file attributes of VIA.
Where the files hold objects as well, those are read unless classes are wanted: `foveate fit DATA
--task classify`, or `--format tags`.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from foveate.data.formats import FORMATS, Fit, Format, Reading
from foveate.data.formats._tool_tables import Found, ToolFormat
from foveate.errors import DataError
from foveate.predictions import Labels
from foveate.types import Table
from foveate.utils.paths import printable


class Tags(Format):
    """Classes of images from the files of annotation tools."""

    summary: ClassVar[str] = "tags of images from an annotation tool"
    target: ClassVar[type | None] = Labels

    def sniff(self, path: Path) -> Reading | None:
        """Files of a tool with tags."""
        found = [each for _, each in _tools_at(path)]
        if len(found) != 1 or not found[0].tags:
            return None
        return Reading(Fit.POSSIBLE if found[0].objects else Fit.STATED, found[0].doubts)

    def read(self, path: Path) -> Table:
        """Read the tags; no image is opened.

        Raises:
            DataError: No tool's files are there, or those of several; or no image has a tag.
        """
        tools = _tools_at(path)
        if len(tools) != 1:
            raise DataError(
                "these are not the files of exactly one annotation tool",
                where=printable(path),
                why=f"these fit: {', '.join(tool.format for tool, _ in tools)}" if tools else None,
                hint="give the folder, or the annotation file, of one tool",
                id="tags_format",
            )
        return tools[0][0].collect(path).labels("tags")


def _tools_at(path: Path) -> list[tuple[ToolFormat, Found]]:
    tools = (FORMATS.get(name)() for name in FORMATS.names())
    return [
        (tool, found)
        for tool in tools
        if isinstance(tool, ToolFormat) and (found := tool.look(path))
    ]
