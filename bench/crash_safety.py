"""Crash safety: kills during saves, a full disk, signals in every phase, and the cost of the guard.

    python bench/crash_safety.py  # Linux

What needs more rights than the process has is left out, with a message. Prints the results of
docs/benchmarks/robustness.md; takes about five minutes.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

TESTS = Path(__file__).parents[1] / "tests"
SEEDS, KILLS = (1, 2, 3), 200
SIGNALS, MAX_SECONDS = 10, 8.0  # runs that get a signal; longest delay before it
_FIT_OPTIONS = ["--backbone", "test_efficientnet", "--weights", "none", "--size", "32"]
_FIT_OPTIONS += ["--tuning", "full", "--epochs", "8", "--device", "cpu"]
_FIT_OPTIONS += ["--set", "training.head_init=random"]
_FILL_DISK = """
import json, sys, torch
from pathlib import Path
from foveate.errors import DiskFull
from foveate.run.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from foveate.run.folder import Run
run, message = Run.create(Path(sys.argv[1]) / "run", "x"), None
for step in range(1, 100):
    try:
        tensors = {"a": torch.full((50_000 * step,), float(step))}
        save_checkpoint(run.folder, f"step-{step:09d}", Checkpoint(tensors, {"step": step}))
    except DiskFull as error:
        message = str(error)
        break
newest = newest_checkpoint(run.folder, print)
intact = bool((newest.tensors["a"] == newest.state["step"]).all())
row = {"failed_at": step, "newest": newest.state["step"], "intact": intact, "message": message}
print(json.dumps(row))
"""
_SAVE_ONCE = """
import sys, torch
from pathlib import Path
from foveate.run.checkpoints import Checkpoint, save_checkpoint
save_checkpoint(Path(sys.argv[1]), "step-1", Checkpoint({"a": torch.zeros(9)}, {"step": 1}))
"""


def kill_during_saves(folder: Path) -> None:
    """Kill processes while they save, and count damaged and outdated checkpoints."""
    for seed in SEEDS:
        command = [sys.executable, str(TESTS / "kill_saves.py")]
        command += [str(seed), str(KILLS), str(folder / str(seed))]
        start = time.perf_counter()
        rows = [
            json.loads(line)
            for line in subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.splitlines()
        ]
        damaged = sum(not row["complete"] or bool(row["warnings"]) for row in rows)
        older = sum(row["newest"] is not None and row["newest"] < row["reported"] for row in rows)
        partial = sum(row["partial"] > 0 for row in rows)
        summary = (
            f"seed {seed}: {len(rows)} kills, {damaged} damaged, {older} older than the last step "
            f"reported as saved"
        )
        print(
            f"{summary}, {partial} while a file was written; {time.perf_counter() - start:.0f} s",
            flush=True,
        )


def fill_disk(folder: Path) -> None:
    """Save ever larger checkpoints on a disk of 4 MB."""
    disk = folder / "small"
    disk.mkdir()
    mount = 'mount -t tmpfs -o size=4m small "$1" && shift && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", str(disk)]
    command += [sys.executable, "-c", _FILL_DISK, str(disk)]
    process = (
        subprocess.run(command, capture_output=True, text=True, check=False)
        if shutil.which("unshare")
        else None
    )
    print(
        "a disk of 4 MB:",
        process.stdout.strip()
        if process and process.returncode == 0
        else "skipped, cannot mount a file system",
        flush=True,
    )


def trace_flushes(folder: Path) -> None:
    """List the flushes and renames of one save, in their order."""
    if not shutil.which("strace"):
        print("flushes: skipped, strace is not installed")
        return
    run = folder / "flushed"
    run.mkdir()
    trace = folder / "trace"
    command = ["strace", "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2"]
    command += ["-o", str(trace), sys.executable, "-c", _SAVE_ONCE, str(run)]
    subprocess.run(command, capture_output=True, check=True)
    calls = [
        line
        for line in trace.read_text().splitlines()
        if "fsync(" in line or re.search(r"rename.*step-1>?\"", line)
    ]
    names = [
        re.sub(r".*<(.*)>.*", r"\1", call).rpartition("/")[2] if "fsync(" in call else "rename"
        for call in calls
    ]
    print(
        "flushes:",
        " -> ".join("aside" if name.startswith(".aside") else name for name in names),
        flush=True,
    )


def send_signals(folder: Path) -> None:
    """Send SIGTERM at random moments after the first line of output; then --resume to the end."""
    rng, codes, waits, ends = random.Random(0), Counter[int](), list[float](), Counter[str]()
    data = write_stripes(folder / "data")
    for number in range(SIGNALS):
        run = folder / f"signal-{number}"
        command = [sys.executable, "-m", "foveate", "fit", str(data), "--out", str(run)]
        command += _FIT_OPTIONS
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0, MAX_SECONDS))
        start = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        process.communicate()
        waits.append(time.perf_counter() - start)
        codes[process.returncode] += 1
        left = (
            [
                path.name
                for path in run.rglob("*")
                if "aside" in path.name or path.name == "lock.json"
            ]
            if run.exists()
            else []
        )
        assert not left, left
        if not (run / "recipe.yaml").is_file():
            ends["stopped before the run folder existed"] += 1
            continue
        resumed = subprocess.run(
            [*command[:3], "fit", "--resume", str(run)], capture_output=True, text=True, check=False
        )
        finished = resumed.returncode == 0 and (run / "finished.json").is_file()
        ends["resumed to the end" if finished else f"failed: {resumed.stderr[-300:]}"] += 1
    seconds = f"{np.median(waits):.2f} s (median), at most {max(waits):.2f} s"
    print(
        f"{SIGNALS} x SIGTERM: exit codes {dict(codes)}, ended after {seconds}; {dict(ends)}",
        flush=True,
    )


def write_stripes(root: Path) -> Path:
    """Write a data set of two classes."""
    rng = np.random.default_rng(0)
    for name in ("horizontal", "vertical"):
        (root / name).mkdir(parents=True)
        for number in range(60):
            wave = np.tile(np.sin(np.arange(40) * rng.uniform(0.8, 1.6)), (40, 1))
            gray = 128 + 90 * (wave if name == "vertical" else wave.T) + rng.normal(0, 12, (40, 40))
            Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8)).save(
                root / name / f"{number}.png"
            )
    return root


def time_guard() -> None:
    """Time what the guard against non-finite steps adds to a step.

    It copies the buffers, and checks the loss and the gradient norm.
    """
    import timm

    model = timm.create_model("resnet18", num_classes=10).train()
    images, classes = torch.randn(32, 3, 128, 128), torch.randint(10, (32,))
    buffers = list(model.buffers())
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    seconds = [0.0, 0.0]  # of the guard, of whole steps
    for step in range(12):
        start = time.perf_counter()
        kept = [tensor.clone() for tensor in buffers]
        copied = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(model(images), classes)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        end = time.perf_counter()
        finite = bool(loss.isfinite()) and bool(norm.isfinite())
        last = time.perf_counter()
        assert finite
        assert kept
        if step > 1:  # the first two warm up
            seconds[0] += copied - start + last - end
            seconds[1] += last - start
    share = 100 * seconds[0] / seconds[1]
    print(
        f"guard against non-finite steps: {share:.2f} % of a step (ResNet-18, 32 images of 128 px)",
        flush=True,
    )


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {sys.platform}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kill_during_saves(folder)
        fill_disk(folder)
        trace_flushes(folder)
        time_guard()
        send_signals(folder)


if __name__ == "__main__":
    main()
