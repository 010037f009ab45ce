"""Immutable checkpoints of a training: written aside, with checksums, and read only if intact."""

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
FIXED_FILES = ("recipe.yaml", "classes.json", "splits.csv")  # inputs that a resume needs unchanged
_LOG_BYTES = 10_000_000  # that logs, reports and predictions may take
_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a training needs to resume.

    Attributes:
        tensors: by name, on the CPU.
        state: JSON-able.
    """

    tensors: dict[str, Any]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path, name: str, checkpoint: Checkpoint, keep_last: int = KEEP_LAST
) -> None:
    """Write an immutable folder checkpoints/NAME, complete or not at all.

    It contains checksums of its files and of the inputs of the run. A checkpoint of this name that
    exists is left as it is; older ones are removed afterwards.

    Args:
        folder: Run folder.
        name: Name; a later one sorts behind an earlier one.
        checkpoint: Content.
        keep_last: How many checkpoints stay.

    Raises:
        DiskFull: There is no space for it.
        RunError: It cannot be written for another reason.
    """
    from safetensors.torch import save_file

    path = folder / "checkpoints" / name
    if path.exists():
        return
    size = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    with atomic_write(path, size) as unfinished:
        unfinished.mkdir()
        save_file(checkpoint.tensors, unfinished / _TENSORS)
        (unfinished / _STATE).write_text(json.dumps(checkpoint.state), encoding="utf-8")
        manifest = {
            "files": {file.name: checksum(file) for file in sorted(unfinished.iterdir())},
            "run": checksums(folder, FIXED_FILES),
        }
        (unfinished / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    for old in checkpoint_folders(folder)[keep_last:]:
        shutil.rmtree(old)


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Read the newest intact checkpoint of a run; None if there is none.

    Args:
        folder: Run folder.
        warn: Called with a message for each damaged one.

    Raises:
        RunError: Recipe, classes or splits are not those that it was saved with.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for saved in checkpoint_folders(folder):
        try:
            manifest = json.loads((saved / _MANIFEST).read_text(encoding="utf-8"))
            files, inputs = dict(manifest["files"]), dict(manifest["run"])
            if files.keys() != {_TENSORS, _STATE}:
                raise ValueError("the manifest lists other files")
            if any(checksum(saved / name) != digest for name, digest in files.items()):
                raise ValueError("a checksum differs")
            state = json.loads((saved / _STATE).read_text(encoding="utf-8"))
            checkpoint = Checkpoint(load_file(saved / _TENSORS), state)
        except (OSError, ValueError, TypeError, KeyError, RecursionError, SafetensorError) as error:
            warn(f"the checkpoint {saved.name} is damaged ({error}); using the one before")
            continue
        _require_unchanged(folder, inputs)
        return checkpoint
    return None


def require_disk_space(folder: Path, size: int) -> None:
    """Raise DiskFull if the disk has no space for what a training writes.

    Args:
        folder: Run folder.
        size: Bytes of a checkpoint.
    """
    count = KEEP_LAST + 1  # one more exists while it is written
    free, needed = free_disk_bytes(folder), count * size + _LOG_BYTES
    if free < needed:
        why = (
            f"{free / 1e6:.0f} MB are free; {count} checkpoints of {size / 1e6:.0f} MB and the "
            f"logs may take {needed / 1e6:.0f} MB"
        )
        what, hint = "there is too little disk space for this training", "free some, or set --out"
        raise DiskFull(what, where=folder, why=why, hint=hint)


def checkpoint_folders(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the newest first."""
    parent = folder / "checkpoints"
    entries = parent.iterdir() if parent.is_dir() else ()
    return sorted((each for each in entries if each.name.startswith("step-")), reverse=True)


def _require_unchanged(folder: Path, inputs: dict[str, str]) -> None:
    for name, digest in inputs.items():
        if checksums(folder, [name]).get(name) != digest:
            raise RunError(
                "this file has changed since the training was saved",
                where=folder / name,
                why="it was edited, damaged or removed",
                hint="restore the file, or start a new run with --recipe",
            )
