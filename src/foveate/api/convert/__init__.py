"""convert DATA: write a dataset with boxes in another format."""

from typing import TYPE_CHECKING

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, to_path

if TYPE_CHECKING:
    from foveate.api.convert.core import ConvertResult


@entry_point
def convert(
    data: PathLike,
    to: str,
    out: PathLike,
    *,
    format: str = "auto",
    allow_outside: bool = False,
) -> "ConvertResult":
    """Convert a dataset with boxes to another format.

    The boxes are read back from the new folder and counted. The data itself is not changed.

    Args:
        data: Dataset to convert.
        to: Format to write: coco, yolo, voc, boxes_table, or that of an annotation tool: cvat,
            labelme, labelstudio or via.
        out: Folder to create; the images are copied into it.
        format: Format of the dataset.
        allow_outside: Read images that the data name outside of their folder.

    Raises:
        UsageError: The folder exists, or the format cannot be written.
        DataError: The data cannot be read.
    """
    from foveate.api.convert import core

    table = core.read_boxes(to_path(data), to, to_path(out), format, allow_outside)
    return core.write_dataset(table, to, to_path(out))
