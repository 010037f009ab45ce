"""Power cuts and kills: kill -9 during saves, the order of flushes, locks of runs.

The ids T7 to T15 are those of docs/trust.md.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from foveate.errors import RunError
from foveate.run.folder import Run

HERE = Path(__file__).parent
KILLS, SEED = 60, 7  # bench/crash_safety.py kills 200


def start_python(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, text=True, **options
    )


def test_t7_kill_9_during_saves_never_costs_a_checkpoint(tmp_path):
    """Kills at random moments of consecutive saves.

    The newest checkpoint is complete, and not older than the last one reported as saved.
    """
    process = start_python(HERE / "kill_saves.py", SEED, KILLS, tmp_path / "run")
    rows = [json.loads(line) for line in process.communicate(timeout=240)[0].splitlines()]
    assert (process.returncode, len(rows)) == (0, KILLS)
    assert all(row["complete"] and not row["warnings"] for row in rows)
    assert all((-1 if row["newest"] is None else row["newest"]) >= row["reported"] for row in rows)
    assert rows[-1]["newest"] > KILLS / 4  # it did save in between
    assert sum(row["partial"] > 0 for row in rows) > KILLS / 10  # and was killed while writing
    assert not [path for path in (tmp_path / "run").rglob("*") if "aside" in path.name]


_WRITER = """
import sys
from pathlib import Path
from foveate.utils.files import atomic_write
with atomic_write(Path(sys.argv[1]) / "checkpoints" / "step-1") as aside:
    aside.mkdir()
    for name in ("tensors", "manifest"):
        (aside / name).write_text(name)
"""


def test_t9_files_are_flushed_before_they_are_renamed(tmp_path):
    """The order of system calls that survives a power cut.

    The files, their folder, the rename, the parent folder; a new folder is flushed to its parent.
    """
    if not shutil.which("strace"):
        pytest.skip("there is no strace here")
    (tmp_path / "run").mkdir()
    strace = [
        "strace",
        "-f",
        "-y",
        "-e",
        "trace=fsync,fdatasync,rename,renameat,renameat2",
        "-o",
        str(tmp_path / "trace"),
    ]
    process = subprocess.run(
        [*strace, sys.executable, "-c", _WRITER, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in process.stderr.lower():
        pytest.skip("processes cannot be traced here")
    assert process.returncode == 0, process.stderr
    calls = [
        line.split(maxsplit=1)[1]
        for line in (tmp_path / "trace").read_text().splitlines()
        if "sync(" in line or "rename" in line
    ]
    order = [
        re.sub(r".*<(.*)>.*", r"\1", call).rpartition("/")[2] if "sync(" in call else "rename"
        for call in calls
    ]
    calls_in_order = [name if not name.startswith(".aside-") else "aside" for name in order]
    assert calls_in_order == ["run", "manifest", "tensors", "aside", "rename", "checkpoints"]


_HOLDER = """
import sys, time
from pathlib import Path
from foveate.errors import RunError
from foveate.run.folder import Run
run = Run(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
try:
    with run.locked():
        print("in", flush=True)
        sys.stdin.readline()
except RunError as error:
    print(error, flush=True)
"""


def test_t13_one_process_locks_a_run_and_a_dead_one_none(tmp_path):
    run = Run.create(tmp_path / "run", "x")
    dead = start_python("-c", "")
    dead.communicate()
    (run.folder / ".lock").touch()
    holder_row = {"host": socket.gethostname(), "pid": dead.pid}
    (run.folder / "lock.json").write_text(json.dumps(holder_row))
    processes = [start_python("-c", _HOLDER, run.folder, stdin=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # all meet the dead lock at once
        process.stdin.write("go\n")
        process.stdin.flush()
    replies = [process.stdout.readline() for process in processes]
    assert sum(line == "in\n" for line in replies) == 1
    assert all("this run is in use" in line for line in replies if line != "in\n")
    holder = processes[replies.index("in\n")]
    with pytest.raises(RunError, match=f"process {holder.pid} on "), run.locked():
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (run.folder / "lock.json").is_file()
    with run.locked():
        assert json.loads((run.folder / "lock.json").read_text())["pid"] == os.getpid()
    assert [entry.name for entry in run.folder.iterdir()] == [".lock"]
    for process in processes:
        process.communicate()


_FORKING_HOLDER = """
import multiprocessing, os, sys, time
from pathlib import Path
from foveate.run.folder import Run

def work(parent):  # as the workers of a loader, which look every few seconds
    while os.getppid() == parent:
        time.sleep(0.2)

with Run(Path(sys.argv[1])).locked():
    multiprocessing.get_context("fork").Process(target=work, args=(os.getpid(),)).start()
    print("in", flush=True)
    sys.stdin.readline()
"""


def test_t13_workers_of_a_dead_process_lock_no_run(tmp_path):
    run = Run.create(tmp_path / "run", "x")
    holder = start_python("-c", _FORKING_HOLDER, run.folder, stdin=subprocess.PIPE)
    assert holder.stdout.readline() == "in\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with run.locked():
        pass
    holder.communicate()


_PROGRESS_BAR = """
import time
from foveate.utils import console
from foveate.utils import signals
with signals.terminate_cleanly(), console.progress(10, "waiting") as bar:
    bar.advance(1, "")
    time.sleep(1)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_t15_the_terminal_is_restored(tmp_path):
    """The cursor that a progress bar hides is shown again after SIGTERM."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", _PROGRESS_BAR])
    output = b""
    while b"ready" not in output:
        output += os.read(terminal, 4096)
    os.kill(child, signal.SIGTERM)
    while True:
        try:
            output += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    assert output.rindex(b"\x1b[?25h") > output.rindex(b"\x1b[?25l")
