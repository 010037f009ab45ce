"""load RUN: a predictor that stays in memory."""

from pathlib import Path
from typing import TYPE_CHECKING

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike

if TYPE_CHECKING:
    from foveate.inference.predictor import Predictor


@entry_point
def load(run: PathLike, device: str = "auto") -> "Predictor":
    """Load a finished run as a predictor.

    Args:
        run: Run folder.
        device: Compute device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        UsageError: There is no run at the path.
        RunError: The run is unfinished or damaged.
    """
    from foveate.inference.predictor import load_predictor

    return load_predictor(Path(run), device)
