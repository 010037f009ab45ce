"""Prints what files made by others cost in this process, as JSON; see test_trust_cost.py.

    python tests/measure_files.py FOLDER

The folder has files by `hostile_files`; the processes that read torch files are counted, too.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from foveate.deploy.runtime import open_exported
from foveate.deploy.targets import onnx
from foveate.errors import FoveateError
from foveate.modeling.weights import read_tensors
from measure_images import memory

MEMORY = 2_000_000_000  # of a small machine


def read(path: Path) -> str:
    """Open a file, and compute it; returns its error."""
    try:
        if path.suffix == ".pt":
            read_tensors(path)
        else:
            open_exported(path).run(np.zeros((1, 3, 8, 8), np.uint8))
    except FoveateError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    onnx.total_memory = lambda: MEMORY
    rows = {}
    for path in sorted(Path(sys.argv[1]).iterdir()):
        if path.suffix == ".bin":
            continue
        start = time.monotonic()
        error = read(path)
        if path.suffix == ".pt":
            peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        else:  # ru_maxrss would include the process that started this one
            peak = memory("VmHWM")
        rows[path.name] = {"error": error, "peak": peak, "seconds": time.monotonic() - start}
    print(json.dumps(rows))
