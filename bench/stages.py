"""Profile a fit by stage. Run by bench/peers.py in a process of its own.

    python bench/stages.py FOLDER WEIGHTS full|probe [--threads 1] [--epochs 3]
        [--set field=value ...]

The functions of each stage are wrapped in timers before the fit starts; inside nested stages the
inner one is counted. Prints a JSON object: wall-clock and CPU seconds of each epoch and of what
follows the last one, the CPU seconds by stage. What precedes the first epoch is counted with it.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import foveate
from foveate.api.fit import pipeline
from foveate.data import splits
from foveate.data.dataset import ImageDataset
from foveate.data.discovery import find_images
from foveate.inference import engine, features
from foveate.modeling.tasks.classify import LinearHead
from foveate.training import trainer, validation
from foveate.training.state import WeightAverage
from foveate.training.trainer import Trainer
from foveate.types import InputSpec


class StageTimer:
    """CPU seconds by stage; the innermost one counts."""

    def __init__(self) -> None:
        self.seconds, self.stack = Counter[str](), ["other"]
        self.last_cpu, self.last_wall = time.process_time(), time.perf_counter()

    def update(self) -> None:
        """Add the CPU time since the last update to the innermost open stage."""
        now = time.process_time()
        self.seconds[self.stack[-1]] += now - self.last_cpu
        self.last_cpu = now

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Count the calls of a function of a module or class as a stage."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.update()
            self.stack.append(stage)
            try:
                return original(*args, **kwargs)
            finally:
                self.update()
                self.stack.pop()

        setattr(owner, name, timed)

    def reset(self) -> dict[str, Any]:
        """Return the seconds since the last reset, and start anew."""
        self.update()
        seconds, self.last_wall = time.perf_counter() - self.last_wall, time.perf_counter()
        stages, self.seconds = dict(self.seconds), Counter()
        return {"seconds": seconds, "cpu_seconds": sum(stages.values()), "stages": stages}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights")
    parser.add_argument("tuning", choices=["full", "probe"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    stages, epochs = StageTimer(), []
    for owner, name, stage in (
        (engine, "scan", "decode"),
        (ImageDataset, "__getitem__", "transform"),
        (ImageDataset, "collate", "transform"),
        (InputSpec, "normalize", "transform"),
        (splits, "near_duplicates", "near-duplicates"),
        (Trainer, "_accumulate_gradients", "forward and backward"),
        (torch.optim.AdamW, "step", "step"),
        (trainer, "clip_grad_norm_", "clip"),
        (WeightAverage, "update", "running average"),
        (Trainer, "_save", "save"),
        (validation, "predict_dataset", "validation"),
        (validation, "compute_scores", "metric"),
        (features, "_head_features", "backbone"),
        (LinearHead, "feature_vector", "describe"),
        (pipeline, "fit_head", "head"),
    ):
        stages.wrap(owner, name, stage)
    end_epoch = Trainer._end_epoch

    def timed_end_epoch(self: Trainer) -> None:
        end_epoch(self)
        epochs.append(stages.reset())

    Trainer._end_epoch = timed_end_epoch  # type: ignore[method-assign]
    settings: dict[str, Any] = {
        "data.val": 0,
        "data.test": 0,
        **dict(each.split("=") for each in options.set),
    }
    arguments = {
        "tuning": options.tuning,
        "backbone": "resnet18",
        "weights": options.weights,
        "epochs": options.epochs,
        "device": "cpu",
    }
    with tempfile.TemporaryDirectory() as folder:
        foveate.fit(options.folder, out=Path(folder) / "run", settings=settings, **arguments)
    count = len(list(find_images(options.folder)))
    print(json.dumps({"images": count, "epochs": epochs, "after": stages.reset()}))


if __name__ == "__main__":
    main()
