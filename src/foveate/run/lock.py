"""One process at a time in a run folder.

The lock is that of the operating system on the file `.lock` (`filelock`): it ends with the process
that holds it, however that ends, so that it is never held by two and never has to be removed by
hand. The file `lock.json` names the holder for the message to others; it decides nothing.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.errors import RunError
from foveate.utils.files import write_error

if TYPE_CHECKING:
    from filelock import FileLock

LOCK_FILES = (".lock", "lock.json")
_ORPHANS = 10.0  # seconds that workers of a process that was killed may take to end
_PAUSE = 0.1  # seconds between two looks at whether they have


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder in this block.

    Raises:
        RunError: Another process holds it.
    """
    from filelock import FileLock, Timeout

    lock, owner = FileLock(folder / LOCK_FILES[0]), folder / LOCK_FILES[1]
    try:
        _acquire(lock, owner)
    except Timeout:
        raise _in_use(folder, owner) from None
    except OSError as error:
        raise write_error(folder / LOCK_FILES[0], error) from None
    try:
        row = {"host": socket.gethostname(), "pid": os.getpid()}
        owner.write_text(json.dumps(row), encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, owner: Path) -> None:
    """Take the lock; raises filelock.Timeout if another process holds it.

    Workers that were forked from a dead holder may keep its lock until they notice.
    """
    from filelock import Timeout

    deadline = time.monotonic() + _ORPHANS
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout:
            if not _owner_is_dead(owner) or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE)


def _in_use(folder: Path, owner: Path) -> RunError:
    known = _read_owner(owner)
    holder = f"process {known[1]} on {known[0]}" if known else "another process"
    why = f"{holder} is writing here"
    hint = "wait for it to finish, or stop it"
    return RunError("this run is in use", where=folder, why=why, hint=hint)


def _read_owner(owner: Path) -> tuple[str, int] | None:
    """Host and process id of the holder; None where the file is missing or cut off."""
    try:
        row = json.loads(owner.read_text(encoding="utf-8"))
        return str(row["host"]), int(row["pid"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _owner_is_dead(owner: Path) -> bool:
    known = _read_owner(owner)
    if known is None or known[0] != socket.gethostname() or known[1] == os.getpid():
        return False
    if os.name == "nt":  # there os.kill would send the process a signal
        return False
    try:
        os.kill(known[1], 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it lives, or no process can have this number
        return False
    return False
