"""runs [FOLDER]: list runs and their scores."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from foveate.errors import FoveateError, UsageError
from foveate.run.folder import Run
from foveate.types import Score


@dataclass(frozen=True)
class RunsResult:
    """One row per run, best first."""

    columns: ClassVar[list[str]] = ["run", "backbone", "tuning", "seed", "images", "score"]
    rows: list[list[str]]
    runs: list[dict[str, Any]] = field(default_factory=list)

    def numbers(self) -> dict[str, Any]:
        return {"runs": self.runs}

    def lines(self) -> list[str]:
        return [] if self.rows else ["no runs yet: foveate fit DATA makes one"]


def list_runs(folder: Path) -> RunsResult:
    """Summarize the runs directly in `folder`.

    Raises:
        UsageError: The folder does not exist.
    """
    if not folder.is_dir():
        raise UsageError(
            "there is no folder of runs at this path",
            where=folder,
            hint="foveate fit DATA makes a first run",
        )
    runs = [
        _summarize(Run(entry))
        for entry in sorted(folder.iterdir())
        if (entry / "recipe.yaml").is_file()
    ]
    runs.sort(key=lambda run: (-run["value"] if run["value"] is not None else 2.0, run["run"]))
    return RunsResult([[str(run[name]) for name in RunsResult.columns] for run in runs], runs)


def _summarize(run: Run) -> dict[str, Any]:
    """Return the row of a run; the score of a damaged one says so."""
    blank = {
        "run": str(run.folder),
        "backbone": "",
        "tuning": "",
        "seed": "",
        "images": "",
        "value": None,
    }
    try:
        recipe = run.recipe()
        row = {
            **blank,
            "backbone": recipe.backbone.name,
            "tuning": recipe.tuning.name,
            "seed": recipe.seed,
        }
        if not run.finished:
            return {**row, "score": "unfinished"}
        row["images"] = sum(run.outcome()["images"].values())
        if run.is_pretraining:
            return {**row, "score": f"{recipe.task.name}: {run.outcome()['verdict']['outcome']}"}
        return {**row, **_best_score(run)}
    except FoveateError as error:
        return {**blank, "score": f"damaged: {error.what}"}


def _best_score(run: Run) -> dict[str, Any]:
    """The first evaluation on the run's own test images, else on its validation images."""
    for split in ("test", "val"):
        path = run.folder / "evaluations" / split / "scores.json"
        if path.is_file():
            name, score = next(
                iter(json.loads(path.read_text(encoding="utf-8"))["numbers"].items())
            )
            return {
                "score": f"{name} {Score(**score)} on {split}",
                "value": score["value"],
                "metric": name,
                "split": split,
            }
    return {"score": "not evaluated on held-out images"}
