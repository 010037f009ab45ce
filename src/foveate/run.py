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
import json
import os
import platform
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from foveate.errors import RunError, UsageError, near_names
from foveate.files import ASIDE, checksum, refuse_taken, written_aside
from foveate.recipe import Recipe, load_recipe

_TOLD = ("foveate", "torch", "torchvision", "timm", "peft", "scikit-learn", "numpy", "pillow")
ADAPTED, BACKBONE = "adapted.safetensors", "backbone.safetensors"
CALIBRATION, FAMILIAR = "calibration.json", "familiar.safetensors"
_SUMMED = ("recipe.yaml", "classes.json", "splits.csv", "model.safetensors", ADAPTED, BACKBONE)
SplitRow = dict[str, str]
"""path, split, group, label and sha256, as in splits.csv"""


class Run:
    """One run folder. Files are written aside, flushed and renamed; nothing that is there is overwritten by another run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path | None, name: str) -> Run:
        """A new folder: the one asked for, or runs/NAME-1, -2, ...; raises UsageError when it holds something already."""
        cls.refuse_taken(folder)
        folder = folder or numbered(Path("runs"), f"{name}-")
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    @staticmethod
    def refuse_taken(folder: Path | None) -> None:
        """Raises UsageError when there is something at the path already."""
        if folder is not None:
            hint = f"--resume {folder} to go on with it, or name another folder"
            refuse_taken(folder, "this run folder is taken; runs are never overwritten", hint)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run; raises UsageError with near names when there is none at this path."""
        if not (folder / "recipe.yaml").is_file():
            others = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()] if folder.parent.is_dir() else []
            near = near_names(folder.name, [name for name in others if name != folder.name])
            hint = f"did you mean {str(folder.parent / near[0])!r}?" if near else "foveate runs lists what there is"
            raise UsageError("there is no run at this path", where=folder, hint=hint)
        return cls(folder)

    @property
    def finished(self) -> bool:
        return (self.folder / "finished.json").is_file()

    @property
    def trained(self) -> bool:
        """Whether a training has saved something to go on from."""
        return bool(_checkpoints(self))

    def recipe(self) -> Recipe:
        return load_recipe(self.folder / "recipe.yaml")

    def classes(self) -> tuple[str, ...]:
        return tuple(self.read_json("classes.json"))

    def outcome(self) -> dict[str, Any]:
        """What finished.json says; raises RunError for a run that did not get so far."""
        if not self.finished:
            hint = f"foveate fit --resume {self.folder}"
            raise RunError("this run is not finished", where=self.folder, hint=hint)
        return dict(self.read_json("finished.json"))

    def adapted(self) -> dict[str, Any]:
        """How, and for which images, the finished network was adapted afterwards; nothing where it was not."""
        return dict(self.read_json("adapted.json")) if (self.folder / "adapted.json").is_file() else {}

    def refuse_as_start(self) -> None:
        """Raises UsageError for a run that nothing can go on from: one that was adapted, for what was learnt is in the run that it
        was made from; and a pre-training, which has no answers to go on with."""
        what, about = "nothing goes on from this run", self.adapted()
        if about:
            why = "it was adapted to images from elsewhere, without labels"
            hint = f"name the run that it was made from: {about['run']}"
            raise UsageError(what, where=self.folder, why=why, hint=hint)
        if self.pretrained:
            hint = f"foveate fit DATA --backbone {self.folder}"
            raise UsageError(what, where=self.folder, why="it is a backbone, and answers nothing yet", hint=hint)

    def carry_over(self, first: Run, command: str) -> None:
        """Takes over what a run that is made from another one has in common with it; recipe and weights are still to come."""
        self.write_json("classes.json", list(first.classes()))
        self.write_splits(first.splits())
        self.write_json("environment.json", environment(command))
        self.write_json("choices.json", first.read_json("choices.json"))

    @property
    def pretrained(self) -> bool:
        """Whether it is a pre-training: a backbone, and no answers."""
        return (self.folder / BACKBONE).is_file()

    def check(self) -> None:
        """Raises RunError when a file differs from what was written when the run finished."""
        for name, digest in self.outcome()["checksums"].items():
            path = self.folder / name
            if not path.is_file() or checksum(path) != digest:
                raise RunError("this run folder is damaged", where=path, why="not what was written", hint="copy it again")

    def finish(self, outcome: dict[str, Any]) -> None:
        """Writes finished.json, last of all, with the checksums of what a prediction depends on."""
        sums = {name: checksum(self.folder / name) for name in _SUMMED if (self.folder / name).is_file()}
        self.write_json("finished.json", {**outcome, "checksums": sums})

    def read_json(self, name: str) -> Any:
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError("this file of the run cannot be read", where=path, why=str(error)) from None

    def write_json(self, name: str, content: Any) -> None:
        self.write_text(name, json.dumps(content, ensure_ascii=False, indent=1) + "\n")

    def write_text(self, name: str, text: str) -> None:
        with written_aside(self.folder / name) as aside:
            aside.write_text(text, encoding="utf-8")

    def write_tensors(self, name: str, tensors: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        with written_aside(self.folder / name) as aside:
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, aside)

    def write_splits(self, rows: Iterable[SplitRow]) -> None:
        with written_aside(self.folder / "splits.csv") as aside, aside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["path", "split", "group", "label", "sha256"])
            writer.writeheader()
            writer.writerows(rows)

    def splits(self) -> list[SplitRow]:
        with (self.folder / "splits.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def log(self, row: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def logged(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; the last one for an epoch that was run again after a resume."""
        path = self.folder / "metrics.jsonl"
        rows: dict[int, dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            with suppress(ValueError):  # a line cut off by a crash
                row = json.loads(line)
                rows[row["epoch"]] = row
        return [rows[epoch] for epoch in sorted(rows)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time; the lock of a process that is gone is taken over."""
        lock = self.folder / "lock"
        mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
        try:
            with lock.open("x", encoding="utf-8") as file:
                file.write(mine)
        except FileExistsError:
            _refuse_living(lock)
            lock.write_text(mine, encoding="utf-8")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes what an interrupted write left behind."""
        for stray in self.folder.rglob(f"{ASIDE}*"):
            shutil.rmtree(stray) if stray.is_dir() else stray.unlink(missing_ok=True)


# --- checkpoints


@dataclass(frozen=True)
class Checkpoint:
    """`tensors` by name, and `state`: JSON-able."""

    tensors: dict[str, Any]
    state: dict[str, Any]


def save_checkpoint(run: Run, name: str, checkpoint: Checkpoint, keep: int = 2) -> None:
    """An immutable folder checkpoints/NAME, complete or absent; older ones beyond `keep` are removed afterwards."""
    from safetensors.torch import save_file

    parent = run.folder / "checkpoints"
    parent.mkdir(exist_ok=True)
    if (parent / name).exists():  # the same step was saved before
        return
    with written_aside(parent / name) as aside:
        aside.mkdir()
        save_file(checkpoint.tensors, aside / "tensors.safetensors")
        (aside / "state.json").write_text(json.dumps(checkpoint.state), encoding="utf-8")
        sums = {file.name: checksum(file) for file in sorted(aside.iterdir())}
        (aside / "manifest.json").write_text(json.dumps(sums), encoding="utf-8")
    for old in _checkpoints(run)[keep:]:
        shutil.rmtree(old)


def newest_checkpoint(run: Run, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are passed over, and said."""
    from safetensors.torch import load_file

    for folder in _checkpoints(run):
        try:
            sums = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            if any(checksum(folder / name) != digest for name, digest in sums.items()):
                raise ValueError("a checksum differs")
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            return Checkpoint(load_file(folder / "tensors.safetensors"), state)
        except (OSError, ValueError) as error:
            warn(f"the checkpoint {folder.name} is damaged ({error}); going back to the one before")
    return None


def _checkpoints(run: Run) -> list[Path]:
    """Newest first."""
    parent = run.folder / "checkpoints"
    found = [entry for entry in parent.iterdir() if entry.name.startswith("step-")] if parent.is_dir() else []
    return sorted(found, reverse=True)


# --- below


def environment(command: str) -> dict[str, Any]:
    """What a run ran on."""
    versions = {}
    for package in _TOLD:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "versions": versions,
    }


def numbered(parent: Path, prefix: str = "") -> Path:
    """The first of parent/1, parent/2, ..., with the prefix before the number, that is not there yet."""
    number = 1
    while (parent / f"{prefix}{number}").exists():
        number += 1
    return parent / f"{prefix}{number}"


def _refuse_living(lock: Path) -> None:
    try:
        owner = json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if owner["host"] != socket.gethostname() or _alive(owner["pid"]):
        why = f"process {owner['pid']} on {owner['host']} is writing here"
        raise RunError("this run is in use", where=lock.parent, why=why, hint="wait for it, or remove its file 'lock'")


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
