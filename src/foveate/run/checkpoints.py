"""Immutable checkpoints of a training: written aside, with checksums, and read back only when they are whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.errors import DiskFull, RunError
from foveate.utils.files import atomic_write, checksum, checksums, free_disk_bytes

KEEP_LAST = 2  # checkpoints of a run
_LOGS = 10_000_000  # bytes that logs, reports and predictions may take


FIXED_FILES = ("recipe.yaml", "classes.json", "splits.csv")  # what a training was begun with
_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """`tensors` by name, and `state`: JSON-able."""

    tensors: dict[str, Any]
    state: dict[str, Any]


def save_checkpoint(folder: Path, name: str, checkpoint: Checkpoint, keep: int = KEEP_LAST) -> None:
    """An immutable folder checkpoints/NAME, complete or absent; older ones beyond `keep` are removed afterwards. It remembers what
    the training was begun with. Raises DiskFull, and RunError."""
    from safetensors.torch import save_file

    place = folder / "checkpoints" / name
    if place.exists():  # the same step was saved before
        return
    with atomic_write(
        place, sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    ) as aside:
        aside.mkdir()
        save_file(checkpoint.tensors, aside / _TENSORS)
        (aside / _STATE).write_text(json.dumps(checkpoint.state), encoding="utf-8")
        manifest = {
            "files": {file.name: checksum(file) for file in sorted(aside.iterdir())},
            "run": checksums(folder, FIXED_FILES),
        }
        (aside / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    for old in checkpoint_folders(folder)[keep:]:
        shutil.rmtree(old)


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are passed over, and said. Raises RunError where the recipe, the classes or
    the splits are not those that it was saved with."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for saved in checkpoint_folders(folder):
        try:
            manifest = json.loads((saved / _MANIFEST).read_text(encoding="utf-8"))
            sums, fixed = dict(manifest["files"]), dict(manifest["run"])
            if sums.keys() != {_TENSORS, _STATE} or any(
                checksum(saved / name) != digest for name, digest in sums.items()
            ):
                raise ValueError("a checksum differs")
            state = json.loads((saved / _STATE).read_text(encoding="utf-8"))
            found = Checkpoint(load_file(saved / _TENSORS), state)
        except (OSError, ValueError, TypeError, KeyError, RecursionError, SafetensorError) as error:
            warn(f"the checkpoint {saved.name} is damaged ({error}); going back to the one before")
            continue
        _refuse_changed(folder, fixed)
        return found
    return None


def _refuse_changed(folder: Path, fixed: dict[str, str]) -> None:
    for name, digest in fixed.items():
        if checksums(folder, [name]).get(name) != digest:
            what, why = (
                "this file is not what it was when the training was saved",
                "it was changed, damaged or removed",
            )
            hint = "bring it back; or start a new run with --recipe"
            raise RunError(what, where=folder / name, why=why, hint=hint)


def require_disk_space(folder: Path, need: int) -> None:
    """Raises DiskFull where the disk of the run has no room for the checkpoints, of `need` bytes each, of a whole training."""
    free, whole = (
        free_disk_bytes(folder),
        (KEEP_LAST + 1) * need + _LOGS,
    )  # one more is there while it is written
    if free < whole:
        why = f"{free / 1e6:.0f} MB are free, {KEEP_LAST + 1} checkpoints of {need / 1e6:.0f} MB and the logs may take {whole / 1e6:.0f}"
        what, hint = (
            "there is no room on this disk for what a training writes",
            "make room, or --out ELSEWHERE",
        )
        raise DiskFull(what, where=folder, why=why, hint=hint)


def checkpoint_folders(folder: Path) -> list[Path]:
    """Newest first."""
    parent = folder / "checkpoints"
    found = (
        [entry for entry in parent.iterdir() if entry.name.startswith("step-")]
        if parent.is_dir()
        else []
    )
    return sorted(found, reverse=True)
