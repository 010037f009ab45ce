"""What a crash costs: kills during saves, a disk that is full, signals in every phase, the order of
flushes, the guard's time.

python bench/trust.py        # Linux; what needs more rights than there are is left out, and said
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
SIGNALS, LONGEST = 10, 8.0  # runs that are told to stop, seconds until then at the most
_TINY = [
    *(
        "--backbone",
        "test_efficientnet",
        "--weights",
        "none",
        "--size",
        "32",
        "--tuning",
        "full",
        "--epochs",
        "8",
    ),
    *("--device", "cpu", "--set", "training.head_init=random"),
]
_FULL = """
import json, sys, torch
from pathlib import Path
from foveate.errors import DiskFull
from foveate.run.folder import Checkpoint, Run, newest_checkpoint, save_checkpoint
run, said = Run.create(Path(sys.argv[1]) / "run", "x"), None
for step in range(1, 100):
    try:
        tensors = {"a": torch.full((50_000 * step,), float(step))}
        save_checkpoint(run.folder, f"step-{step:09d}", Checkpoint(tensors, {"step": step}))
    except DiskFull as error:
        said = str(error)
        break
found = newest_checkpoint(run.folder, print)
whole = bool((found.tensors["a"] == found.state["step"]).all())
print(json.dumps({"met at": step, "newest": found.state["step"], "whole": whole, "said": said}))
"""
_SAVE = """
import sys, torch
from pathlib import Path
from foveate.run.folder import Checkpoint, Run, save_checkpoint
save_checkpoint(Path(sys.argv[1]), "step-1", Checkpoint({"a": torch.zeros(9)}, {"step": 1}))
"""


def kills(folder: Path) -> None:
    for seed in SEEDS:
        words = [
            sys.executable,
            str(TESTS / "kill_saves.py"),
            str(seed),
            str(KILLS),
            str(folder / str(seed)),
        ]
        start = time.perf_counter()
        rows = [
            json.loads(line)
            for line in subprocess.run(
                words, capture_output=True, text=True, check=True
            ).stdout.splitlines()
        ]
        bad = sum(not row["complete"] or bool(row["warnings"]) for row in rows)
        older = sum(row["newest"] is not None and row["newest"] < row["reported"] for row in rows)
        partial = sum(row["partial"] > 0 for row in rows)
        summary = (
            f"seed {seed}: {len(rows)} kills, {bad} damaged, {older} older than the last step "
            f"reported as saved"
        )
        print(
            f"{summary}, {partial} while a file was written; {time.perf_counter() - start:.0f} s",
            flush=True,
        )


def full(folder: Path) -> None:
    place = folder / "small"
    place.mkdir()
    mount = 'mount -t tmpfs -o size=4m small "$1" && shift && exec "$@"'
    words = [
        "unshare",
        "-m",
        "sh",
        "-c",
        mount,
        "sh",
        str(place),
        sys.executable,
        "-c",
        _FULL,
        str(place),
    ]
    done = (
        subprocess.run(words, capture_output=True, text=True, check=False)
        if shutil.which("unshare")
        else None
    )
    print(
        "a disk of 4 MB:",
        done.stdout.strip() if done and done.returncode == 0 else "nothing can be mounted here",
        flush=True,
    )


def order(folder: Path) -> None:
    if not shutil.which("strace"):
        print("flushes: there is no strace here")
        return
    run = folder / "flushed"
    run.mkdir()
    trace = folder / "trace"
    words = ["strace", "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", "-o", str(trace)]
    subprocess.run([*words, sys.executable, "-c", _SAVE, str(run)], capture_output=True, check=True)
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


def told_to_stop(folder: Path) -> None:
    """SIGTERM at random moments from the first sentence on; then --resume to the end."""
    chance, codes, waits, ends = random.Random(0), Counter[int](), list[float](), Counter[str]()
    data = stripes(folder / "data")
    for number in range(SIGNALS):
        run = folder / f"told-{number}"
        command = [sys.executable, "-m", "foveate", "fit", str(data), "--out", str(run), *_TINY]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0, LONGEST))
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
            ends["before a run was made"] += 1
            continue
        again = subprocess.run(
            [*command[:3], "fit", "--resume", str(run)], capture_output=True, text=True, check=False
        )
        done = again.returncode == 0 and (run / "finished.json").is_file()
        ends["resumed to the end" if done else f"failed: {again.stderr[-300:]}"] += 1
    took = f"{np.median(waits):.2f} s (median), {max(waits):.2f} s at the most"
    print(
        f"{SIGNALS} x SIGTERM: exit codes {dict(codes)}, the end after {took}; {dict(ends)}",
        flush=True,
    )


def stripes(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("lying", "upright"):
        (root / name).mkdir(parents=True)
        for number in range(60):
            wave = np.tile(np.sin(np.arange(40) * rng.uniform(0.8, 1.6)), (40, 1))
            grey = 128 + 90 * (wave if name == "upright" else wave.T) + rng.normal(0, 12, (40, 40))
            Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(
                root / name / f"{number}.png"
            )
    return root


def guard() -> None:
    """What it costs to be able to take a step back: the buffers copied, the loss and the norm
    looked at; beside the step itself.
    """
    import timm

    model = timm.create_model("resnet18", num_classes=10).train()
    images, classes = torch.randn(32, 3, 128, 128), torch.randint(10, (32,))
    buffers = list(model.buffers())
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    spent = [0.0, 0.0]
    for step in range(12):
        start = time.perf_counter()
        kept = [tensor.clone() for tensor in buffers]
        middle = time.perf_counter()
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
        if step > 1:  # the first ones are warming up
            spent[0] += middle - start + last - end
            spent[1] += last - start
    share = 100 * spent[0] / spent[1]
    print(
        f"guard against steps that are no numbers: {share:.2f} % of a step (ResNet-18, 32 images "
        f"of 128 px)",
        flush=True,
    )


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {sys.platform}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kills(folder)
        full(folder)
        order(folder)
        guard()
        told_to_stop(folder)


if __name__ == "__main__":
    main()
