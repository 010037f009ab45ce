"""TODO-DOC foveate.run.lock."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from foveate.errors import RunError


def _taken(lock: Path, mine: Path) -> None:
    """The file `mine` as the lock too: with its content at once, and by one process alone."""
    try:
        try:
            os.link(mine, lock)
        except FileExistsError:
            raise
        except OSError:  # a disk without links
            with lock.open("x", encoding="utf-8") as file:
                file.write(mine.read_text(encoding="utf-8"))
    except FileExistsError:
        _refuse_living(lock)
        raise RunError(
            "this run is in use", where=lock.parent, why="another process has just begun"
        ) from None


def _refuse_living(lock: Path) -> None:
    try:
        owner = dict(json.loads(lock.read_text(encoding="utf-8")))
        host, pid = str(owner["host"]), int(owner["pid"])
    except (OSError, ValueError, TypeError, KeyError):  # cut off by a crash
        return
    if host != socket.gethostname() or _alive(pid):
        why = f"process {pid} on {host} is writing here"
        raise RunError(
            "this run is in use",
            where=lock.parent,
            why=why,
            hint="wait for it, or remove its file 'lock'",
        )


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
