"""Files that are written completely or not at all, and never over others."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from foveate.errors import DiskFull, FoveateError, RunError, UsageError
from foveate.utils.csv_cells import protect_cells
from foveate.utils.paths import without_surrogates

# no space on the disk, in the quota, or for a file of this size
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# safetensors, OpenVINO and others wrap the message of the system into one of their own
_FULL_MESSAGES = tuple(os.strerror(code) for code in _FULL)
PARTIAL_PREFIX = ".aside-"  # of names of files that are being written
_OWNER_HINT = "change the permissions of the folder, or name another one"
_WRITE_HINTS: dict[int | None, str] = {
    errno.EACCES: _OWNER_HINT,
    errno.EPERM: _OWNER_HINT,
    errno.EROFS: "name a folder on another file system",
    errno.EISDIR: "name a file: there is a folder at this path",
    errno.ENOTDIR: "name a folder: a part of this path is a file",
    errno.ENAMETOOLONG: "a shorter name",
    errno.EMFILE: "a higher limit of open files (ulimit -n)",
}
"""What to try, by the number of the system's error."""


def require_free(path: Path, message: str = "", hint: str = "") -> None:
    """Raise UsageError if a path to create is taken, or if nothing can be created there.

    Args:
        path: The file or folder to create; an empty folder is not in the way.
        message: What to say of a folder with content.
        hint: What to try.
    """
    hint = hint or "--out ANOTHER_PATH"
    require_writable(path, hint)
    if path.is_dir():
        if any(path.iterdir()):
            what = message or "the folder already exists and is not empty"
            raise UsageError(what, where=path, hint=hint)
    elif path.exists():
        raise UsageError("the file already exists", where=path, hint=hint)


def require_writable(path: Path, hint: str = "--out ANOTHER_PATH") -> None:
    """Raise UsageError if no file or folder can be written at the path, DiskFull if it is full.

    That is tried, by a folder that is removed at once: permissions do not tell it for all users
    and file systems.

    Args:
        path: The file or folder to write; its parents may be missing.
        hint: What to try.
    """
    folder = path
    try:
        folder = _nearest_existing(path)
        if path.is_file():  # it is replaced by a file that is written beside it
            folder = path.parent
        elif not folder.is_dir():
            what = f"{str(folder)!r} is a file, not a folder"
            what = "this is neither a file nor a folder" if folder == path else what
            raise UsageError(what, where=path, hint=hint)
        Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=folder)).rmdir()
    except OSError as error:
        if error.errno in _FULL:
            raise write_error(path, error) from None
        what = f"the folder {str(folder)!r} cannot be written to: {reason(error)}"
        raise UsageError(what, where=path, hint=hint) from None


def _nearest_existing(path: Path) -> Path:
    """The path, or the nearest of its parents that exists. Raises OSError for an invalid name."""
    for each in (path, *path.parents):
        try:
            each.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return each
    return Path()


def reason(error: Exception) -> str:
    """Return why the system refused: "permission denied"."""
    text = getattr(error, "strerror", None) or str(error)
    return f"{text[:1].lower()}{text[1:]}"


@contextmanager
def atomic_write(path: Path, need: int = 0) -> Iterator[Path]:
    """Write a file or a folder aside; it is flushed to the disk and renamed afterwards.

    Args:
        path: Where the file or folder appears, complete.
        need: Its size in bytes, if known, for the error.

    Yields:
        The path to write to.

    Raises:
        DiskFull: There is no space left; what was at `path` before is still there.
        RunError: The file cannot be written for another reason.
    """
    aside = path.with_name(f"{PARTIAL_PREFIX}{os.getpid()}-{path.name}")
    try:
        make_folder(path.parent)
        yield aside
        for file in sorted(aside.rglob("*")) if aside.is_dir() else [aside]:
            _flush(file)
        _flush(aside)
        aside.replace(path)
        _flush(path.parent)
    except Exception as error:
        if not _is_disk_error(error):
            raise
        raise write_error(path, error, need) from None
    finally:
        with suppress(OSError):
            if aside.is_dir():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as `atomic_write` does."""
    with atomic_write(path) as aside:
        aside.write_text(without_surrogates(text), encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file atomically."""
    with (
        atomic_write(path) as aside,
        aside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(map(protect_cells, [columns, *rows]))


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises RunError where that is not possible."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError("the file cannot be read", where=path, why=str(error)) from None


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, so that they survive a power cut: each parent is flushed."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        _flush(each.parent)


def free_disk_bytes(path: Path) -> int:
    """Return the free bytes of the disk that holds `path`, or will hold it."""
    return shutil.disk_usage(_nearest_existing(path.absolute())).free


def write_error(path: Path, error: Exception, need: int = 0) -> RunError:
    """Return the error for a file that could not be written: DiskFull if there is no space."""
    what, text, full = "the file could not be written", reason(error), _full_message(error)
    if full is None:
        return RunError(what, where=path, why=text, hint=_WRITE_HINTS.get(_number(error)))
    needed = f"{need / 1e6:.1f} MB needed, " if need else ""
    why = f"{full} ({needed}{free_disk_bytes(path.parent) / 1e6:.1f} MB free)"
    run = _unfinished_run(path)
    hint = "free some space" if run is None else "free some space, then resume the run with "
    hint += "" if run is None else shlex.join(["--resume", str(run)])
    return DiskFull(what, where=path, why=why, hint=hint)


def system_error(error: OSError) -> FoveateError:
    """Return the error for what the system refused to do with a file that nobody has expected."""
    path = Path(os.fsdecode(error.filename))
    if error.errno in _FULL:
        return write_error(path, error)
    what = f"a file cannot be opened or written: {reason(error)}"
    return FoveateError(what, where=path, hint=_WRITE_HINTS.get(error.errno))


def _number(error: Exception) -> int | None:
    return error.errno if isinstance(error, OSError) else None


def _unfinished_run(path: Path) -> Path | None:
    """The run folder that a file belongs to, if a training can go on in it."""
    for folder in path.parents:
        if (folder / "recipe.yaml").is_file():
            return None if (folder / "finished.json").is_file() else folder
    return None


def is_disk_full(error: Exception) -> bool:
    """Whether there was no space to write, however a library reports it."""
    return _full_message(error) is not None


def _full_message(error: Exception) -> str | None:
    text = reason(error).lower()
    return next((message for message in _FULL_MESSAGES if message.lower() in text), None)


def _is_disk_error(error: Exception) -> bool:
    """Whether the system refused to write; some libraries raise classes of their own then."""
    return (
        isinstance(error, OSError)
        or is_disk_full(error)
        or (type(error).__name__ == "SafetensorError" and "os error" in str(error))
    )


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows has no handle on a folder to flush
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 by name of those files in `folder` that exist."""
    return {name: checksum(folder / name) for name in names if (folder / name).is_file()}


def next_free_path(parent: Path, prefix: str = "") -> Path:
    """Return the first of parent/PREFIX1, parent/PREFIX2, ... that does not exist."""
    number = 1
    while (parent / f"{prefix}{number}").exists():
        number += 1
    return parent / f"{prefix}{number}"
