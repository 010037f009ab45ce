"""runs [FOLDER]: list runs by score."""

from typing import TYPE_CHECKING

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, to_path

if TYPE_CHECKING:
    from foveate.api.runs.core import RunsResult


@entry_point
def runs(folder: PathLike = "runs") -> "RunsResult":
    """List the runs in a folder with their scores, best first.

    Args:
        folder: Folder that holds run folders.

    Raises:
        UsageError: There is no such folder.
    """
    from foveate.api.runs.core import list_runs

    return list_runs(to_path(folder))
