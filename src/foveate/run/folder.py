"""The run folder: all that a run was, is and decided. The only room that opens one.

recipe.yaml            what was asked, with everything that was decided; reruns the run
choices.json           field, value and reason of each decision
classes.json           the class names, in the order of the scores
splits.csv             path, split, group, label and SHA-256 of every picture
metrics.jsonl          a line an epoch
environment.json       versions, machine, command
checkpoints/           immutable folders to resume from
model.safetensors      the tensors that training changed, the best of them
backbone.safetensors   in the place of the former, of a pre-training: the whole backbone
train.jsonl, held.jsonl, labels.json   of a pre-training: its pictures, those of its guard, and their classes where they are known
adapted.safetensors    what was moved afterwards for images from elsewhere (foveate adapt), and adapted.json: how, for which
finished.json          what the run reached; with the checksums of the files above. Written last
evaluations/NAME/      predictions.jsonl, scores.json and report.html of one evaluation
lock                   who is writing here
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from foveate.errors import RunError, UsageError
from foveate.recipe import Recipe, load_recipe
from foveate.run.checkpoints import FIXED, checkpoint_folders
from foveate.run.lock import _refuse_living, _taken
from foveate.utils import log
from foveate.utils.files import (
    ASIDE,
    checksum,
    checksums,
    made,
    numbered,
    read_json,
    refuse_taken,
    unwritten,
    write_json,
    write_text,
    written_aside,
)
from foveate.utils.invocation import current_invocation
from foveate.utils.paths import did_you_mean_path

_TOLD = ("foveate", "torch", "torchvision", "timm", "peft", "scikit-learn", "numpy", "pillow")
ADAPTED_FILE, BACKBONE_FILE = "adapted.safetensors", "backbone.safetensors"
CALIBRATION_FILE, FEATURE_SPACE_FILE = "calibration.json", "familiar.safetensors"
_SUMMED = (*FIXED, "model.safetensors", ADAPTED_FILE, BACKBONE_FILE, CALIBRATION_FILE, FEATURE_SPACE_FILE)
_OUTCOME = "finished.json"
_COLUMNS = ("path", "split", "group", "label", "sha256")
SplitRow = dict[str, str]
"""path, split, group, label and sha256, as in splits.csv"""


class Run:
    """One run folder. Files are written aside, flushed and renamed; nothing that is there is overwritten by another run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path | None, name: str) -> Run:
        """A new folder: the one asked for, or runs/NAME-1, -2, ...; raises UsageError when it holds something already."""
        cls.require_free(folder)
        folder = folder or numbered(Path("runs"), f"{name}-")
        made(folder)
        return cls(folder)

    @staticmethod
    def require_free(folder: Path | None) -> None:
        """Raises UsageError when there is something at the path already."""
        if folder is not None:
            hint = f"--resume {folder} to go on with it, or name another folder"
            refuse_taken(folder, "this run folder is taken; runs are never overwritten", hint)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run; raises UsageError with near names when there is none at this path."""
        if not (folder / "recipe.yaml").is_file():
            hint = did_you_mean_path(folder) or "foveate runs lists the runs that exist"
            raise UsageError("there is no run at this path", where=folder, hint=hint)
        return cls(folder)

    @property
    def finished(self) -> bool:
        return (self.folder / "finished.json").is_file()

    @property
    def has_checkpoint(self) -> bool:
        """Whether a training has saved something to go on from."""
        return bool(checkpoint_folders(self.folder))

    def recipe(self) -> Recipe:
        return load_recipe(self.folder / "recipe.yaml")

    def classes(self) -> tuple[str, ...]:
        return tuple(self.read_json("classes.json"))

    def outcome(self) -> dict[str, Any]:
        """What finished.json says; raises RunError for a run that did not get so far."""
        if not self.finished:
            hint = f"foveate fit --resume {self.folder}"
            raise RunError("this run is not finished", where=self.folder, hint=hint)
        found = self.read_json(_OUTCOME)
        if not isinstance(found, dict) or not isinstance(found.get("checksums"), dict):
            raise self._damaged(_OUTCOME)
        return found

    def adaptation(self) -> dict[str, Any]:
        """How, and for which images, the finished network was adapted afterwards; nothing where it was not."""
        return (
            dict(self.read_json("adapted.json")) if (self.folder / "adapted.json").is_file() else {}
        )

    def require_continuable(self) -> None:
        """Raises UsageError for a run that nothing can go on from: one that was adapted, for what was learnt is in the run that it
        was made from; and a pre-training, which has no answers to go on with."""
        what, about = "nothing goes on from this run", self.adaptation()
        if about:
            why = "it was adapted to images from elsewhere, without labels"
            hint = f"name the run that it was made from: {about['run']}"
            raise UsageError(what, where=self.folder, why=why, hint=hint)
        if self.is_pretraining:
            hint = f"foveate fit DATA --backbone {self.folder}"
            raise UsageError(
                what, where=self.folder, why="it is a backbone, and answers nothing yet", hint=hint
            )

    def carry_over(self, first: Run) -> None:
        """Takes over what a run that is made from another one has in common with it; recipe and weights are still to come."""
        self.write_json("classes.json", list(first.classes()))
        self.write_splits(first.splits())
        self.write_json("environment.json", environment())
        self.write_json("choices.json", first.read_json("choices.json"))

    @property
    def is_pretraining(self) -> bool:
        """Whether it is a pre-training: a backbone, and no answers."""
        return (self.folder / BACKBONE_FILE).is_file()

    def verify(self) -> None:
        """Raises RunError when a file differs from what was written when the run finished."""
        outcome = self.outcome()
        known = outcome.pop("checksums")
        for name, digest in known.items():
            path = self.folder / name
            if (
                not path.is_file()
                or (_digest(outcome) if name == _OUTCOME else checksum(path)) != digest
            ):
                raise self._damaged(name)

    def _damaged(self, name: str) -> RunError:
        where, why = self.folder / name, "not what was written"
        return RunError("this run folder is damaged", where=where, why=why, hint="copy it again")

    def finish(self, outcome: dict[str, Any]) -> None:
        """Writes finished.json, last of all, with the checksums of what a prediction depends on."""
        outcome = json.loads(json.dumps(outcome))  # as it will be read
        self.write_json(
            _OUTCOME,
            {
                **outcome,
                "checksums": {**checksums(self.folder, _SUMMED), _OUTCOME: _digest(outcome)},
            },
        )

    def read_json(self, name: str) -> Any:
        return read_json(self.folder / name)

    def write_json(self, name: str, content: Any) -> None:
        write_json(self.folder / name, content)

    def write_text(self, name: str, text: str) -> None:
        write_text(self.folder / name, text)

    def write_tensors(self, name: str, tensors: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        with written_aside(
            self.folder / name, sum(tensor.nbytes for tensor in tensors.values())
        ) as aside:
            save_file(
                {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, aside
            )

    def write_splits(self, rows: Iterable[SplitRow]) -> None:
        with (
            written_aside(self.folder / "splits.csv") as aside,
            aside.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def splits(self) -> list[SplitRow]:
        """Raises RunError where the file cannot be read, or a row is cut off."""
        path = self.folder / "splits.csv"
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except (OSError, ValueError, csv.Error) as error:
            raise RunError(
                "this file of the run cannot be read", where=path, why=str(error)
            ) from None
        if any(row.keys() != set(_COLUMNS) or None in row.values() for row in rows):
            raise self._damaged(path.name)
        return rows

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl; one that was cut off by a crash stays a line of its own. Raises DiskFull."""
        path = self.folder / "metrics.jsonl"
        try:
            with path.open("a+b") as file:
                file.seek(max(0, file.tell() - 1))
                gap = b"" if file.read() in (b"", b"\n") else b"\n"
                file.write(gap + json.dumps(row).encode() + b"\n")
        except OSError as error:
            raise unwritten(path, error) from None

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; the last one for an epoch that was run again after a resume."""
        path = self.folder / "metrics.jsonl"
        rows: dict[int, dict[str, Any]] = {}
        for line in (
            path.read_text(encoding="utf-8", errors="replace").splitlines()
            if path.is_file()
            else []
        ):
            with suppress(
                ValueError, TypeError, KeyError, RecursionError
            ):  # a line cut off by a crash
                row = json.loads(line)
                rows[row["epoch"]] = row
        return [rows[epoch] for epoch in sorted(rows)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time; the lock of a process that is gone is taken over."""
        lock, mine = self.folder / "lock", self.folder / f"{ASIDE}{os.getpid()}-lock"
        mine.write_text(
            json.dumps({"host": socket.gethostname(), "pid": os.getpid()}), encoding="utf-8"
        )
        try:
            if lock.exists():
                _refuse_living(lock)
                lock.unlink(missing_ok=True)
            _taken(lock, mine)
        finally:
            mine.unlink(missing_ok=True)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)

    def remove_partial_files(self) -> None:
        """Removes what an interrupted write left behind."""
        for stray in list(self.folder.rglob(f"{ASIDE}*")):
            shutil.rmtree(stray) if stray.is_dir() else stray.unlink(missing_ok=True)


# --- below


def environment() -> dict[str, Any]:
    """What a run ran on."""
    versions = {}
    for package in _TOLD:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "command": current_invocation().command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "versions": versions,
    }


def _digest(outcome: dict[str, Any]) -> str:
    """Of what finished.json says, as `check` finds it."""
    return hashlib.sha256(json.dumps(outcome).encode()).hexdigest()


def note_choice(run: Run, field: str, value: Any, reason: str) -> None:
    """Says a decision and adds it to choices.json."""
    log.choice(field, value, reason)
    rows = run.read_json("choices.json") if (run.folder / "choices.json").is_file() else []
    run.write_json("choices.json", [*rows, {"field": field, "value": value, "reason": reason}])
