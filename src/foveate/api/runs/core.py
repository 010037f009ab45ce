"""runs [FOLDER]: list runs and their scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from foveate.errors import FoveateError, UsageError
from foveate.reporting.metric_names import metric_name
from foveate.run.folder import Run
from foveate.types import Score


@dataclass(frozen=True)
class RunsResult:
    """The runs in a folder.

    Attributes:
        folder: Holds the run folders.
        runs: A dictionary for each run, best first.
    """

    columns: ClassVar[list[str]] = ["run", "backbone", "tuning", "score", "images"]
    folder: Path
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rows(self) -> list[list[str]]:
        """Name of the folder, backbone, tuning, score, and the images that it is measured on."""
        return [
            [
                Path(run["run"]).name,
                run["backbone"],
                run["tuning"],
                run["score"],
                f"{run['count']} {run['split']}" if "count" in run else "",
            ]
            for run in self.runs
        ]

    def numbers(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "runs": self.runs}

    def lines(self) -> list[str]:
        if self.runs:
            return [f"folder: {self.folder}"]
        return [
            f"there are no runs in the folder {self.folder}; foveate fit DATA creates a first one"
        ]


def list_runs(folder: Path) -> RunsResult:
    """Summarize the runs directly in `folder`.

    Raises:
        UsageError: The folder does not exist.
    """
    if not folder.is_dir():
        raise UsageError(
            "there is no folder of runs at this path",
            where=folder,
            hint="foveate fit DATA creates a first run, in the folder runs",
        )
    runs = [
        _summarize(Run(entry))
        for entry in sorted(folder.iterdir())
        if (entry / "recipe.yaml").is_file()
    ]
    runs.sort(key=lambda run: (-run["value"] if run["value"] is not None else 2.0, run["run"]))
    return RunsResult(folder, runs)


def _summarize(run: Run) -> dict[str, Any]:
    """Return the row of a run; the score of a damaged one says so."""
    blank = {
        "run": str(run.folder),
        "backbone": "",
        "tuning": "",
        "seed": None,
        "images": None,
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
        file = f"evaluations/{split}/scores.json"
        if (run.folder / file).is_file():
            with run.expecting(file) as content:
                name, row = next(iter(content["numbers"].items()))
                score = Score(**row)
            return {
                "score": f"{metric_name(name)} {score.with_interval}",
                "value": score.value,
                "count": score.count,
                "metric": name,
                "split": split,
            }
    return {"score": "not evaluated on held-out images"}
