"""load RUN: a model that stays in memory."""

from typing import TYPE_CHECKING, Any

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, to_path

if TYPE_CHECKING:
    from foveate.inference.protocol import ImagePredictor


@entry_point
def load(run: PathLike, device: str = "auto") -> "ImagePredictor[Any]":
    """Load a finished run or an exported file, to predict again and again.

    Args:
        run: Run folder, or a file that `foveate export` wrote.
        device: Compute device: auto, cpu, cuda, cuda:1 or mps. Exported files run on the processor.

    Raises:
        UsageError: There is no run and no exported file at the path.
        RunError: The run is unfinished or damaged.
        WeightsError: The exported file is damaged.
    """
    from foveate.api.predict.core import load_model

    return load_model(to_path(run), device)
