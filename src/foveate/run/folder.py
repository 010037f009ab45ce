"""The run folder: everything that a run is, decided and measured. Only this module opens one.

recipe.yaml            every setting, with everything that was decided; reruns the run
choices.json           field, value and reason of each automatic decision
classes.json           the class names, in the order of the scores
splits.csv             path, split, group, label and SHA-256 of every image
thumbnails.safetensors of each of these images, to recognize it in another encoding
metrics.jsonl          one line for each epoch
environment.json       versions, machine, command
checkpoints/           immutable folders to resume from
bad_steps/             the first steps with a loss or gradient that was not finite, for replay
model.safetensors      the tensors that training changed, from the best epoch
backbone.safetensors   instead of it, after pretraining: the whole backbone
train.jsonl, held_out.jsonl, labels.json   of pretraining: the training images, the held-out ones,
                       and the labels of the latter where they are known
calibration.json, feature_space.safetensors   temperature, limits of prediction sets, and features
                       of training images for out-of-distribution scores
adapted.safetensors    what `foveate adapt` has changed for another domain, and adapted.json: how
finished.json          what the run reached, with checksums of the files above; written last
evaluations/NAME/      predictions.jsonl, scores.json and report.html of one evaluation
.lock, lock.json       which process is writing here
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from foveate.errors import RunError, UsageError
from foveate.messages import Message, message_from
from foveate.recipe import Recipe, load_recipe
from foveate.run.checkpoints import FIXED_FILES, checkpoint_folders
from foveate.run.lock import lock_folder
from foveate.types import Decision
from foveate.utils import log
from foveate.utils.csv_cells import original_cell, protect_cell
from foveate.utils.files import (
    PARTIAL_PREFIX,
    atomic_write,
    checksum,
    checksums,
    make_folder,
    next_free_path,
    read_json,
    require_free,
    require_writable,
    write_error,
    write_json,
    write_text,
)
from foveate.utils.invocation import current_invocation, shell_command
from foveate.utils.paths import did_you_mean_path, require_outside

RECIPE_FILE, DECISIONS_FILE, CLASSES_FILE = "recipe.yaml", "choices.json", "classes.json"
SPLITS_FILE, METRICS_FILE, ENVIRONMENT_FILE = "splits.csv", "metrics.jsonl", "environment.json"
MODEL_FILE, BACKBONE_FILE = "model.safetensors", "backbone.safetensors"
ADAPTED_FILE, ADAPTATION_FILE = "adapted.safetensors", "adapted.json"
CALIBRATION_FILE, FEATURE_SPACE_FILE = "calibration.json", "feature_space.safetensors"
OUTCOME_FILE = "finished.json"

_CHECKSUMMED = (  # what a prediction depends on
    *FIXED_FILES,
    MODEL_FILE,
    ADAPTED_FILE,
    BACKBONE_FILE,
    CALIBRATION_FILE,
    FEATURE_SPACE_FILE,
)
THUMBNAILS_FILE = "thumbnails.safetensors"
_SPLIT_COLUMNS = ("path", "split", "group", "label", "sha256")
_PACKAGES = ("foveate", "torch", "torchvision", "timm", "peft", "scikit-learn", "numpy", "pillow")

SplitRow = dict[str, str]
"""path, split, group, label and sha256, as in splits.csv"""


class Run:
    """One run folder.

    Files are written aside, flushed and renamed; another run never overwrites them.

    Args:
        folder: An existing folder; `create` and `open` check it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path | None, name: str) -> Run:
        """Create a run folder.

        Args:
            folder: Its path; None takes the first free one of runs/NAME-1, -2, ...
            name: The NAME in that path.

        Raises:
            UsageError: There is something at the path already.
        """
        cls.require_free(folder)
        folder = folder or next_free_path(Path("runs"), f"{name}-")
        make_folder(folder)
        return cls(folder)

    @staticmethod
    def require_free(folder: Path | None, data: Path | str = "") -> None:
        """Raise UsageError if the path of a run to create is taken, or lies inside its data.

        Args:
            folder: Its path; None = below runs/.
            data: The data that it is to learn from.
        """
        if data:
            require_outside(folder or Path("runs"), Path(data), "the run")
        hint = "--out ANOTHER_FOLDER"
        require_writable(folder or Path("runs"), hint)
        if folder is None:
            return
        message = "the run folder already exists and is not empty"
        if (folder / OUTCOME_FILE).is_file():
            message = "a finished run already exists in this folder"
        elif (folder / RECIPE_FILE).is_file():
            message = "an unfinished run already exists in this folder"
            hint = f"{shlex.join(['--resume', str(folder)])} to continue it, or {hint}"
        require_free(folder, message, hint)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open an existing run; raise UsageError, with similar names, if there is none."""
        if not (folder / RECIPE_FILE).is_file():
            hint = did_you_mean_path(folder) or "foveate runs lists the runs that exist"
            raise UsageError("there is no run at this path", where=folder, hint=hint)
        return cls(folder)

    @property
    def finished(self) -> bool:
        return (self.folder / OUTCOME_FILE).is_file()

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return bool(checkpoint_folders(self.folder))

    @property
    def is_pretraining(self) -> bool:
        """Whether the run is a pretrained backbone, which makes no predictions."""
        return (self.folder / BACKBONE_FILE).is_file()

    def require_continuable(self) -> None:
        """Raise UsageError for a run that no other run can continue.

        Those are an adapted run, whose training is in the run that it was made from, and a
        pretraining, which has no predictions to continue with.
        """
        message, adaptation = "this run cannot be continued", self.adaptation()
        if adaptation:
            why = "it was adapted to another domain, without labels"
            hint = f"continue the run that it was made from: {adaptation['run']}"
            raise UsageError(message, where=self.folder, why=why, hint=hint)
        if self.is_pretraining:
            why = "it is a pretrained backbone, and makes no predictions yet"
            hint = shell_command("fit", "DATA", "--backbone", self.folder)
            raise UsageError(message, where=self.folder, why=why, hint=hint)

    # --- recipe and decisions

    def recipe(self) -> Recipe:
        return load_recipe(self.folder / RECIPE_FILE)

    def write_recipe(
        self, recipe: Recipe, decisions: Iterable[Decision] = (), *, only_set: bool = False
    ) -> None:
        """Write recipe.yaml, and record the decisions in it.

        Args:
            recipe: The recipe, resolved.
            decisions: What was decided since the recipe was last written.
            only_set: Leave out the fields that were never set, for others to decide.
        """
        self.record(decisions)
        self.write_text(RECIPE_FILE, recipe.to_yaml(only_set))

    def decisions(self) -> list[Decision]:
        """Return what choices.json says; nothing if there is no such file."""
        if not (self.folder / DECISIONS_FILE).is_file():
            return []
        with self.expecting(DECISIONS_FILE) as rows:
            return [
                Decision(
                    row["field"],
                    row["value"],
                    message_from(row["message"]) if "message" in row else row["reason"],
                )
                for row in rows
            ]

    def record(self, decisions: Iterable[Decision]) -> None:
        """Log decisions, and add them to choices.json."""
        decisions = list(decisions)
        if not decisions:
            return
        for decision in decisions:
            log.choice(*decision)
        rows = [_decision_row(each) for each in (*self.decisions(), *decisions)]
        self.write_json(DECISIONS_FILE, rows)

    # --- data

    def classes(self) -> tuple[str, ...]:
        return tuple(self.read_json(CLASSES_FILE))

    def splits(self) -> list[SplitRow]:
        """Read splits.csv; raise RunError if it cannot be read, or if a row is cut off."""
        path = self.folder / SPLITS_FILE
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except (OSError, ValueError, csv.Error) as error:
            raise RunError("the file cannot be read", where=path, why=str(error)) from None
        if any(row.keys() != set(_SPLIT_COLUMNS) or None in row.values() for row in rows):
            raise self._damaged(SPLITS_FILE)
        return [{name: original_cell(cell) for name, cell in row.items()} for row in rows]

    def write_splits(self, rows: Iterable[SplitRow]) -> None:
        with (
            atomic_write(self.folder / SPLITS_FILE) as unfinished,
            unfinished.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, _SPLIT_COLUMNS)
            writer.writeheader()
            writer.writerows(
                {name: protect_cell(cell) for name, cell in row.items()} for row in rows
            )

    def write_environment(self) -> None:
        """Record versions, machine and command of this process."""
        self.write_json(ENVIRONMENT_FILE, describe_environment())

    def environment(self) -> tuple[str, dict[str, str]]:
        """Return the command that made the run, and what it ran on by name."""
        with self.expecting(ENVIRONMENT_FILE) as row:
            own = {k: str(v) for k, v in row.items() if k not in ("versions", "command")}
            return str(row["command"] or ""), {**own, **row["versions"]}

    def copy_metadata(self, source: Run) -> None:
        """Take classes, splits and decisions from the run that this one is derived from."""
        self.write_json(CLASSES_FILE, list(source.classes()))
        self.write_splits(source.splits())
        if (source.folder / THUMBNAILS_FILE).is_file():
            shutil.copyfile(source.folder / THUMBNAILS_FILE, self.folder / THUMBNAILS_FILE)
        self.write_environment()
        self.write_json(DECISIONS_FILE, source.read_json(DECISIONS_FILE))

    # --- metrics

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl; one that a crash cut off stays a line of its own.

        Raises:
            DiskFull: There is no space for it.
        """
        path = self.folder / METRICS_FILE
        try:
            with path.open("a+b") as file:
                file.seek(max(0, file.tell() - 1))
                gap = b"" if file.read() in (b"", b"\n") else b"\n"
                file.write(gap + json.dumps(row).encode() + b"\n")
        except OSError as error:
            raise write_error(path, error) from None

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl; the last one of an epoch that was repeated."""
        path = self.folder / METRICS_FILE
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        rows: dict[int, dict[str, Any]] = {}
        for line in text.splitlines():
            # a line that a crash cut off is no JSON
            with suppress(ValueError, TypeError, KeyError, RecursionError):
                row = json.loads(line)
                rows[row["epoch"]] = row
        return [rows[epoch] for epoch in sorted(rows)]

    # --- outcome

    def outcome(self) -> dict[str, Any]:
        """Return what finished.json says; raise RunError if the run is not finished."""
        if not self.finished:
            hint = shell_command("fit", "--resume", self.folder)
            raise RunError("this run is not finished", where=self.folder, hint=hint)
        outcome = self.read_json(OUTCOME_FILE)
        if not isinstance(outcome, dict) or not isinstance(outcome.get("checksums"), dict):
            raise self._damaged(OUTCOME_FILE)
        return outcome

    def finish(self, outcome: dict[str, Any]) -> None:
        """Write finished.json, last of all, with checksums of what a prediction depends on."""
        outcome = json.loads(json.dumps(outcome))  # as it will be read
        sums = {**checksums(self.folder, _CHECKSUMMED), OUTCOME_FILE: _digest(outcome)}
        self.write_json(OUTCOME_FILE, {**outcome, "checksums": sums})

    def verify(self) -> None:
        """Raise RunError if a file is not what it was when the run was finished."""
        outcome = self.outcome()
        known = outcome.pop("checksums")
        for name, digest in known.items():
            path = self.folder / name
            if not path.is_file():
                raise self._damaged(name)
            if (_digest(outcome) if name == OUTCOME_FILE else checksum(path)) != digest:
                raise self._damaged(name)

    def adaptation(self) -> dict[str, Any]:
        """Return how the finished model was adapted to another domain; empty if it was not."""
        exists = (self.folder / ADAPTATION_FILE).is_file()
        return dict(self.read_json(ADAPTATION_FILE)) if exists else {}

    # --- files

    def read_json(self, name: str) -> Any:
        return read_json(self.folder / name)

    @contextmanager
    def expecting(self, name: str) -> Iterator[Any]:
        """Yield what a JSON file holds.

        Raises:
            RunError: It cannot be read, or the block finds that it is not what was written.
        """
        content = self.read_json(name)
        try:
            yield content
        except (KeyError, IndexError, TypeError, AttributeError, StopIteration):
            raise self._damaged(name) from None

    def write_json(self, name: str, content: Any) -> None:
        write_json(self.folder / name, content)

    def write_text(self, name: str, text: str) -> None:
        write_text(self.folder / name, text)

    def write_tensors(self, name: str, tensors: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        size = sum(tensor.nbytes for tensor in tensors.values())
        with atomic_write(self.folder / name, size) as unfinished:
            on_cpu = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            save_file(on_cpu, unfinished)

    def locked(self) -> AbstractContextManager[None]:
        """Hold the run in a block: one writer at a time; a lock ends with its process.

        Raises:
            RunError: Another process holds it.
        """
        return lock_folder(self.folder)

    def remove_partial_files(self) -> None:
        """Remove what interrupted writes have left behind."""
        for path in list(self.folder.rglob(f"{PARTIAL_PREFIX}*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _damaged(self, name: str) -> RunError:
        why, hint = "it is not what was written", "copy the run folder again"
        return RunError("the run folder is damaged", where=self.folder / name, why=why, hint=hint)


def describe_environment() -> dict[str, Any]:
    """Return command, time, machine and package versions of this process, JSON-able."""
    versions = {}
    for package in _PACKAGES:
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
    """Return the checksum of finished.json without its checksums."""
    return hashlib.sha256(json.dumps(outcome).encode()).hexdigest()


def _decision_row(decision: Decision) -> dict[str, Any]:
    """The entry of choices.json: the reason in English, and as a message if it is one."""
    row = {"field": decision.field, "value": decision.value, "reason": str(decision.reason)}
    if isinstance(decision.reason, Message):
        row["message"] = decision.reason.row()
    return row
