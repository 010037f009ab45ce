"""Power cuts and kills, by the ids of docs/trust.md: kill -9 during saves, the order of flushes, who holds a run."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from foveate.errors import RunError
from foveate.run.folder import Run

HERE = Path(__file__).parent
KILLS, SEED = 60, 7  # bench/trust.py kills 200


def python(*words, **options):
    return subprocess.Popen(
        [sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True, **options
    )


def test_t7_kill_9_during_saves_never_costs_a_checkpoint(tmp_path):
    """Kills at random moments of back-to-back saves: what is found is whole, and not older than what was told to be saved."""
    process = python(HERE / "killing.py", SEED, KILLS, tmp_path / "run")
    rows = [json.loads(line) for line in process.communicate(timeout=240)[0].splitlines()]
    assert (process.returncode, len(rows)) == (0, KILLS)
    assert all(row["whole"] and not row["warned"] for row in rows)
    assert all((-1 if row["found"] is None else row["found"]) >= row["told"] for row in rows)
    assert rows[-1]["found"] > KILLS / 4  # it did save in between
    assert sum(row["strays"] > 0 for row in rows) > KILLS / 10  # and was struck while it wrote
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


def test_t9_everything_is_on_the_disk_before_it_gets_its_name(tmp_path):
    """The order that survives a power cut, as the system sees it: the files, their folder, the rename, the folder above; and a
    folder that was made is flushed to the one above it."""
    if not shutil.which("strace"):
        pytest.skip("there is no strace here")
    (tmp_path / "run").mkdir()
    words = [
        "strace",
        "-f",
        "-y",
        "-e",
        "trace=fsync,fdatasync,rename,renameat,renameat2",
        "-o",
        str(tmp_path / "trace"),
    ]
    done = subprocess.run(
        [*words, sys.executable, "-c", _WRITER, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in done.stderr.lower():
        pytest.skip("processes cannot be traced here")
    assert done.returncode == 0, done.stderr
    calls = [
        line.split(maxsplit=1)[1]
        for line in (tmp_path / "trace").read_text().splitlines()
        if "sync(" in line or "rename" in line
    ]
    order = [
        re.sub(r".*<(.*)>.*", r"\1", call).rpartition("/")[2] if "sync(" in call else "rename"
        for call in calls
    ]
    named = [name if not name.startswith(".aside-") else "aside" for name in order]
    assert named == ["run", "manifest", "tensors", "aside", "rename", "checkpoints"]


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


def test_t13_of_several_processes_one_holds_a_run_and_a_dead_one_holds_none(tmp_path):
    run = Run.create(tmp_path / "run", "x")
    crowd = [python("-c", _HOLDER, run.folder, stdin=subprocess.PIPE) for _ in range(4)]
    for each in crowd:
        assert each.stdout.readline() == "ready\n"
    for each in crowd:  # all at once
        each.stdin.write("go\n")
        each.stdin.flush()
    said = [each.stdout.readline() for each in crowd]
    assert sum(line == "in\n" for line in said) == 1
    assert all("this run is in use" in line for line in said if line != "in\n")
    holder = crowd[said.index("in\n")]
    with pytest.raises(RunError, match=f"process {holder.pid} on "), run.locked():
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (run.folder / "lock.json").is_file()
    with run.locked():
        assert json.loads((run.folder / "lock.json").read_text())["pid"] == os.getpid()
    assert [entry.name for entry in run.folder.iterdir()] == [".lock"]
    for each in crowd:
        each.communicate()


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


def test_t13_workers_of_a_dead_process_hold_no_run(tmp_path):
    run = Run.create(tmp_path / "run", "x")
    holder = python("-c", _FORKING_HOLDER, run.folder, stdin=subprocess.PIPE)
    assert holder.stdout.readline() == "in\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with run.locked():
        pass
    holder.communicate()


_SHOWING = """
import time
from foveate.utils import console
from foveate.utils import signals
with signals.terminate_cleanly(), console.progress(10, "waiting") as bar:
    bar.advance(1, "")
    time.sleep(1)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_t15_the_terminal_is_as_it_was_before(tmp_path):
    """The cursor that a bar hides is there again after SIGTERM."""
    child, screen = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", _SHOWING])
    seen = b""
    while b"ready" not in seen:
        seen += os.read(screen, 4096)
    os.kill(child, signal.SIGTERM)
    while True:
        try:
            seen += os.read(screen, 4096)
        except OSError:  # the other end is closed
            break
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")
