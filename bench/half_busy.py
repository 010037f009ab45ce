"""What commands take while another program keeps one core busy, by the number of threads.

    python bench/half_busy.py --out OUT [--repeats 3] [--cases probe full predict export]

The cases are commands on 400 photographs of clothing, from the command line to their end:

probe    fit --backbone resnet18 --weights none --size 128, a probe
full     fit --tuning full --epochs 1, of the same
predict  predict with the probe
export   export of the probe to ONNX

Each is run with one thread, with as many as there are cores, and as it comes, in turn, beside a
program that multiplies without end. Reported are the medians of the seconds, and how many times the
best of the other two the default takes. Rows are appended to OUT/half_busy.jsonl.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import FOVEATE, ResultFile, parse_options

IMAGES = 400
NETWORK = ["--backbone", "resnet18", "--weights", "none", "--size", "128", "--device", "cpu"]
SETTINGS = {"one thread": "1", "a thread for each core": str(os.cpu_count()), "default": ""}


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def link_photos(source: Path, folder: Path) -> Path:
    """Link the first photographs of each class, about `IMAGES` in all."""
    if not folder.is_dir():
        classes = sorted(path for path in source.iterdir() if path.is_dir())
        for each in classes:
            (folder / each.name).mkdir(parents=True)
            for photo in sorted(each.iterdir())[: IMAGES // len(classes)]:
                (folder / each.name / photo.name).symlink_to(photo.resolve())
    return folder


def arguments(case: str, photos: Path, run: Path, out: Path) -> list[str]:
    """The command line of a case that writes `out`; `run` is a finished probe."""
    if case == "predict":
        return ["predict", str(run), str(photos), "--out", str(out), "--device", "cpu"]
    if case == "export":
        return ["export", str(run), "--out", str(out)]
    tuning = ["--tuning", "full", "--epochs", "1"] if case == "full" else ["--tuning", "probe"]
    return ["fit", str(photos), *NETWORK, *tuning, "--out", str(out)]


def seconds_of(command: list[str], threads: str, cache: Path) -> float:
    """Return the seconds of a command in a process of its own, with an empty cache of features."""
    shutil.rmtree(cache, ignore_errors=True)
    environment = {**os.environ, "FOVEATE_CACHE": str(cache)}
    environment |= {"OMP_NUM_THREADS": threads} if threads else {}
    if not threads:
        environment.pop("OMP_NUM_THREADS", None)
    start = time.monotonic()
    subprocess.run([sys.executable, *FOVEATE, *command], env=environment, check=True, stdout=-3)
    return time.monotonic() - start


def main() -> None:
    cases = ["probe", "full", "predict", "export"]
    options = parse_options(__doc__, [], cases, threads=0, repeats=3.0)
    results = ResultFile(options.out / "half_busy.jsonl")
    photos = link_photos(options.data / "clothing" / "train", options.out / "photos")
    run, written, cache = (options.out / name for name in ("probe-run", "written", "cache"))
    if not run.is_dir():
        seconds_of(arguments("probe", photos, run, run), "", cache)
    with busy_core():
        for case in options.cases:
            taken: dict[str, list[float]] = {name: [] for name in SETTINGS}
            for repeat in range(int(options.repeats)):
                for name, threads in SETTINGS.items():
                    for path in (written, written.with_suffix(".jsonl")):
                        shutil.rmtree(path, ignore_errors=True)
                        path.unlink(missing_ok=True)
                    value = seconds_of(arguments(case, photos, run, written), threads, cache)
                    taken[name].append(value)
                    results.add({"case": case, "threads": name, "repeat": repeat, "s": value})
            medians = {name: statistics.median(values) for name, values in taken.items()}
            best = min(value for name, value in medians.items() if name != "default")
            row = {name: round(value, 1) for name, value in medians.items()}
            ratio = round(medians["default"] / best, 2)
            print(json.dumps({"case": case, **row, "of the best": ratio}), flush=True)


if __name__ == "__main__":
    main()
