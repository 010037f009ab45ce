"""How cost grows with the data: probes on 1,000 to 100,000 generated pictures.

    python bench/scale.py --out OUT [--ways 1000 3000 10000 30000 100000] [--threads 1] [--seeds 0]
    [--room MB] [--plot SVG]

The pictures: ten classes of 64 px, a random field of 8 x 8 colours each with a tint of its class,
JPEG. The network is a resnet10t from random weights at 64 px, because what is to be seen is what
grows beside it: reading, near-copies, splits, features, the head. Each way is one `foveate fit` in
a process of its own with an empty cache; told are seconds by the clock and of the processor, and
the most memory that the process held at once. `--room`: megabytes that decoded pictures may take of
it, in the place of a quarter of the machine's.

Rows land in OUT/scale.jsonl, and a row that is there is not measured again. `--plot`: where the
picture for docs goes.
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

from foveate.data.image_cache import MEMORY_SHARE
from spine import Rows, words

COUNTS = ["1000", "3000", "10000", "30000", "100000"]
CLASSES, SIDE = 10, 64
TINTS = np.random.default_rng(0).integers(0, 56, (CLASSES, 3))


def pictures(folder: Path, count: int) -> Path:
    """The first `count` of the generated pictures, a folder per class; those that are there are
    kept.
    """
    for place in range(count):
        file = folder / f"class {place % CLASSES}" / f"{place:06d}.jpg"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            chance = np.random.default_rng([place, 0])
            field = chance.integers(0, 200, (8, 8, 3)) + TINTS[place % CLASSES]
            Image.fromarray(field.astype(np.uint8)).resize(
                (SIDE, SIDE), Image.Resampling.BICUBIC
            ).save(file)
    return folder


def measured(folder: Path, threads: int, seed: int, room: int) -> dict[str, Any]:
    """One fit; megabytes are those of the process alone."""
    said = [
        "fit",
        str(folder),
        "--tuning",
        "probe",
        "--backbone",
        "resnet10t",
        "--weights",
        "none",
        "--size",
        str(SIDE),
    ]
    said += ["--seed", str(seed), "--device", "cpu", "--json"]
    with tempfile.TemporaryDirectory() as place:
        code = (
            f"from foveate.utils import memory; memory.total = lambda: "
            f"{int(room * 1e6 / MEMORY_SHARE)}; "
            if room
            else ""
        )
        code += "from foveate.cli.main import main; main()"
        limits = {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "FOVEATE_CACHE": str(Path(place) / "cache"),
        }
        log = os.open(Path(place) / "log", os.O_CREAT | os.O_WRONLY)
        actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        start, command = (
            time.perf_counter(),
            [sys.executable, "-c", code, *said, "--out", str(Path(place) / "run")],
        )
        process = os.posix_spawn(
            sys.executable, command, {**os.environ, **limits}, file_actions=actions
        )
        _, status, used = os.wait4(process, 0)
        seconds = time.perf_counter() - start
        if status:
            sys.exit((Path(place) / "log").read_text()[-3000:])
    return {
        "seconds": seconds,
        "processor": used.ru_utime + used.ru_stime,
        "megabytes": used.ru_maxrss / 1024,
    }


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Seconds of the processor and memory over the number of pictures; a dashed line is what is
    proportional to it.
    """
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    rows = sorted(rows, key=lambda row: row["images"])
    counts = [row["images"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.loglog(counts, [row["processor"] for row in rows], "o-")
    slope = rows[-1]["processor"] / counts[-1]
    left.loglog(counts, [slope * count for count in counts], "--", color="grey")
    right.semilogx(counts, [row["megabytes"] for row in rows], "o-")
    left.set(xlabel="pictures", ylabel="seconds of the processor")
    right.set(xlabel="pictures", ylabel="megabytes at the most", ylim=(0, None))
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    options = words(__doc__, [], COUNTS, threads=1, plot="", room=0)
    rows = Rows(options.out / "scale.jsonl")
    for way in options.ways:
        key = {
            "images": int(way),
            "threads": options.threads,
            "seed": options.seeds[0],
            "room": options.room,
        }
        if not rows.has(**key):
            folder = pictures(options.out / f"generated-{way}", int(way))
            rows.add({**key, **measured(folder, options.threads, options.seeds[0], options.room)})
    if options.plot:
        plot(
            [row for row in rows.rows if row["threads"] == options.threads and not row["room"]],
            Path(options.plot),
        )


if __name__ == "__main__":
    main()
