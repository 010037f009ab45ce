"""convert DATA: write a dataset in another format."""

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
    """Convert a dataset to another format.

    The new folder is read back and compared, image by image, and kept only if it holds the same.
    What the format cannot hold is said. The data itself is not changed.

    Args:
        data: Dataset to convert.
        to: Format to write, which has to hold what the data have: classes of images, boxes, masks,
            numbers or captions.
        out: Folder to create; the images are copied into it.
        format: Format of the dataset.
        allow_outside: Read images that the data name outside of their folder.

    Raises:
        UsageError: The folder exists, or the format cannot be written, or not for these data.
        DataError: The data cannot be read, or would not be the same.
    """
    from foveate.api.convert import core

    table = core.read_data(to_path(data), to, to_path(out), format, allow_outside)
    return core.write_dataset(table, to, to_path(out))
