"""The report of self-supervised pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foveate.messages import Message
from foveate.reporting.rendering import Text, render


@dataclass(frozen=True)
class PretrainingPage:
    """What the report of pretraining shows.

    Attributes:
        title: Name of the run.
        command: The command that made it.
        verdict: Whether it helped.
        explanation: By what measurement.
        measures: Name of a metric, and its value before and after.
        facts: Name and value of what is known about the run.
        choices: Field, value and reason of what was chosen automatically.
        curves: Rows of metrics.jsonl.
        neighbors: Rows of an image and its nearest neighbors, (H, W, 3) uint8 each.
        reconstructions: Rows of an image, what the network saw of it, and what it reconstructed.
        environment: Name and version of what the run used.
        lang: Code of the language.
    """

    title: str
    command: str
    verdict: Message
    explanation: Message
    measures: list[tuple[str, float, float]]
    facts: list[tuple[Message, Text]]
    choices: list[tuple[str, str, Text]]
    curves: list[dict[str, Any]]
    neighbors: list[list[np.ndarray]]
    reconstructions: list[list[np.ndarray]]
    environment: dict[str, str]
    lang: str = "en"


def write_pretraining_report(page: PretrainingPage, path: Path) -> None:
    """Write the report of pretraining, complete or not at all."""
    from foveate.reporting import plots

    curves = plots.pretraining_curves(page.curves) if page.curves else []
    render("pretraining.html.j2", path, page, curves=curves)
