"""How long it takes to list and weigh a folder: the recognition of its layout, and its table.

    python bench/listing.py --out OUT [--cases flat split nested] [--images 100000] [--repeats 5]
        [--other CHECKOUT]

The cases are folders of empty .jpg files in ten classes:

flat    a folder for each class
split   train and test, with a folder for each class
nested  a folder for each class, with folders of 100 images in it

Each measurement is a process of its own that has listed the folder once, so that the disk is warm;
reported are CPU seconds of `read_table`, the best of three calls. `--other` measures the same in
the source tree of another checkout, alternating with this one, and prints the ratio of the medians.
Rows are appended to OUT/listing.jsonl.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from common import BENCH, ResultFile, parse_options

CLASSES = 10
CHILD = """
import sys, time
from pathlib import Path
try:
    from foveate.data.formats import read_table
except ImportError:  # the layout of earlier versions
    from foveate.formats import read_table
times = []
for _ in range(4):
    start = time.process_time()
    table = read_table(Path(sys.argv[1]))
    times.append(time.process_time() - start)
assert len(table.samples) == int(sys.argv[2]) and len(table.classes) == 10, len(table.samples)
print(min(times[1:]))
"""


def write_files(folder: Path, case: str, count: int) -> Path:
    """Create empty files; the names of an existing folder are taken as they are."""
    if folder.is_dir():
        return folder
    for index in range(count):
        parts = [f"class_{index % CLASSES}"]
        if case == "split":
            parts.insert(0, "train" if index % 5 else "test")
        if case == "nested":
            parts.append(f"part{index // CLASSES // 100:04d}")
        parent = folder.joinpath(*parts)
        parent.mkdir(parents=True, exist_ok=True)
        (parent / f"IMG_{index:06d}.jpg").touch()
    return folder


def measure(source: Path, folder: Path, count: int) -> float:
    """Return the CPU seconds of one process."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(folder), str(count)]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(child.stdout)


def main() -> None:
    options = parse_options(
        __doc__, [], ["flat", "split", "nested"], threads=1, images=100000.0, repeats=5.0, other=""
    )
    results = ResultFile(options.out / "listing.jsonl")
    trees = {"this": BENCH.parent / "src"}
    if options.other:
        trees["other"] = Path(options.other) / "src"
    for case in options.cases:
        folder = write_files(options.out / f"files-{case}", case, int(options.images))
        seconds: dict[str, list[float]] = {name: [] for name in trees}
        for repeat in range(int(options.repeats)):
            for name, source in trees.items():
                value = measure(source, folder, int(options.images))
                seconds[name].append(value)
                results.add({"case": case, "tree": name, "repeat": repeat, "cpu_seconds": value})
        medians = {name: round(statistics.median(own), 3) for name, own in seconds.items()}
        ratio = medians["this"] / medians["other"] if options.other else None
        print(json.dumps({"case": case, **medians, "ratio": ratio and round(ratio, 3)}), flush=True)


if __name__ == "__main__":
    main()
