"""soup RUNS: averages of the weights of finished runs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, as_path, as_paths

if TYPE_CHECKING:
    from foveate.api.soup.core import SoupResult


@entry_point
def soup(
    runs: PathLike | Iterable[PathLike],
    *,
    out: PathLike | None = None,
    shift: PathLike | None = None,
    steps: int = 10,
    format: str = "auto",
    device: str = "auto",
    strict: bool = False,
) -> "SoupResult":
    """Average the weights of one run and its start (WiSE-FT), or of several runs (model soup).

    The average that is best on the validation images becomes a new run; the given runs are not
    changed.

    Args:
        runs: One run folder, or several that were tuned from the same start.
        out: Run folder to create. Default: runs/NAME-soup-N.
        shift: Extra dataset to report on; not used for selection.
        steps: Number of interpolation steps from the start of a single run to its end.
        format: Format of the extra dataset.
        device: Compute device: auto, cpu, cuda, cuda:1 or mps.
        strict: Stop at the first unreadable image instead of skipping and reporting it.

    Raises:
        UsageError: The runs cannot be averaged.
        WeightsError: The tensors of the runs differ.
    """
    from foveate.api.evaluate.core import Source
    from foveate.api.soup.core import average_runs

    source = None if shift is None else Source(as_path(shift), "auto", format, strict)
    return average_runs(as_paths(runs), as_path(out), source, steps, device)
