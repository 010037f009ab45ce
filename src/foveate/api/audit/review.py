"""What an audit suggests, as tasks for an annotation tool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveate.inference.writers import write_folder
from foveate.predictions import ImageResult, Labels
from foveate.types import Sample
from foveate.utils.paths import printable


@dataclass(frozen=True)
class Suggestion:
    """A class for an image.

    Attributes:
        sample: The image.
        probabilities: (K,), of each class.
        index: Index of the suggested class.
        label: The class that the data state; empty for an unlabeled image.
    """

    sample: Sample
    probabilities: np.ndarray
    index: int
    label: str = ""


def write_suggestions(
    folder: Path, tool: str, model: str, classes: tuple[str, ...], queue: Sequence[Suggestion]
) -> None:
    """Write suggestions in their order, as tasks that a tool opens.

    Images that are not files of their own are left out; without any image nothing is written.

    Args:
        folder: The folder to create.
        tool: labelstudio, cvat or labelme.
        model: The name of the run.
        classes: The K classes.
        queue: The suggestions.
    """
    results = [
        ImageResult(
            printable(each.sample.path),
            Labels((classes[each.index],), each.probabilities),
            classes=classes,
            model=model,
            stated=each.label,
        )
        for each in queue
        if isinstance(each.sample.path, Path)
    ]
    if results:
        write_folder(results, tool, folder)
