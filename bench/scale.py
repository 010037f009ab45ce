"""Scaling with the number of images: time and memory of probes on 1,000 to 100,000 images.

    python bench/scale.py --out OUT [--cases 1000 3000 10000 30000 100000] [--threads 1] [--seeds 0]
        [--cache-mb MB] [--plot SVG]

The cases are numbers of images. The images: ten classes of 64 px JPEGs, each a random field of
8 x 8 colors with a tint of its class. The network is a resnet10t from random weights at 64 px,
because the aim is to see what grows beside it: reading, near-duplicates, splits, features, the
head. Each case is one `foveate fit` in a process of its own with an empty cache; reported are
wall-clock and CPU seconds and the peak memory of the process. `--cache-mb`: megabytes that decoded
images may take in memory, instead of a quarter of the machine's.

Rows are appended to OUT/scale.jsonl; those already there are not measured again. `--plot` writes
the figure of docs/benchmarks/speed.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common import ResultFile, parse_options
from foveate.data.image_cache import MEMORY_SHARE

COUNTS = ["1000", "3000", "10000", "30000", "100000"]
CLASSES, SIDE = 10, 64
TINTS = np.random.default_rng(0).integers(0, 56, (CLASSES, 3))


def write_images(folder: Path, count: int) -> Path:
    """Write the first `count` images, a folder per class; existing files are kept."""
    for index in range(count):
        file = folder / f"class {index % CLASSES}" / f"{index:06d}.jpg"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng([index, 0])
            field = rng.integers(0, 200, (8, 8, 3)) + TINTS[index % CLASSES]
            Image.fromarray(field.astype(np.uint8)).resize(
                (SIDE, SIDE), Image.Resampling.BICUBIC
            ).save(file)
    return folder


def measure(folder: Path, threads: int, seed: int, cache_mb: int) -> dict[str, Any]:
    """Run one fit; megabytes are those of its process alone."""
    arguments = ["fit", str(folder), "--tuning", "probe", "--backbone", "resnet10t"]
    arguments += [
        "--weights",
        "none",
        "--size",
        str(SIDE),
        "--seed",
        str(seed),
        "--device",
        "cpu",
        "--json",
    ]
    with tempfile.TemporaryDirectory() as work:
        code = (
            f"from foveate.utils import memory; memory.total_memory = lambda: "
            f"{int(cache_mb * 1e6 / MEMORY_SHARE)}; "
            if cache_mb
            else ""
        )
        code += "from foveate.cli.main import main; main()"
        limits = {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "FOVEATE_CACHE": str(Path(work) / "cache"),
        }
        log = os.open(Path(work) / "log", os.O_CREAT | os.O_WRONLY)
        actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        command = [sys.executable, "-c", code, *arguments, "--out", str(Path(work) / "run")]
        start = time.perf_counter()
        process = os.posix_spawn(
            sys.executable, command, {**os.environ, **limits}, file_actions=actions
        )
        _, status, used = os.wait4(process, 0)
        seconds = time.perf_counter() - start
        if status:
            sys.exit((Path(work) / "log").read_text()[-3000:])
    return {
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "megabytes": used.ru_maxrss / 1024,
    }


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Plot CPU seconds and memory over the number of images; the dashed line is proportional."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    rows = sorted(rows, key=lambda row: row["images"])
    counts = [row["images"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.loglog(counts, [row["cpu_seconds"] for row in rows], "o-")
    slope = rows[-1]["cpu_seconds"] / counts[-1]
    left.loglog(counts, [slope * count for count in counts], "--", color="gray")
    right.semilogx(counts, [row["megabytes"] for row in rows], "o-")
    left.set(xlabel="images", ylabel="CPU seconds")
    right.set(xlabel="images", ylabel="peak memory, MB", ylim=(0, None))
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    options = parse_options(__doc__, [], COUNTS, threads=1, plot="", cache_mb=0)
    results = ResultFile(options.out / "scale.jsonl")
    for case in options.cases:
        key = {
            "images": int(case),
            "threads": options.threads,
            "seed": options.seeds[0],
            "cache_mb": options.cache_mb,
        }
        if not results.has(**key):
            folder = write_images(options.out / f"generated-{case}", int(case))
            results.add(
                {**key, **measure(folder, options.threads, options.seeds[0], options.cache_mb)}
            )
    if options.plot:
        plot(
            [
                row
                for row in results.rows
                if row["threads"] == options.threads and not row["cache_mb"]
            ],
            Path(options.plot),
        )


if __name__ == "__main__":
    main()
