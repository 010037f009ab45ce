"""Where the time of a fit goes, stage by stage; run by bench/peers.py in a process of its own.

    python bench/stages.py FOLDER WEIGHTS full|probe [--threads 1] [--epochs 3] [--set field=value
    ...]

What is a stage is wrapped in a clock before the fit begins; of a stage inside another one the inner
one has the time. Prints one JSON object: of each epoch and of what comes after, seconds by the
clock and of the processor, and the latter by stage. What comes before the first epoch is counted
with it.
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


class Stages:
    """Seconds of the processor by stage; the innermost one counts."""

    def __init__(self) -> None:
        self.seconds, self.open, self.mark, self.began = (
            Counter[str](),
            ["other"],
            time.process_time(),
            time.perf_counter(),
        )

    def turn(self) -> None:
        """What has passed belongs to the stage that was open."""
        now = time.process_time()
        self.seconds[self.open[-1]] += now - self.mark
        self.mark = now

    def wrap(self, place: Any, name: str, stage: str) -> None:
        own = getattr(place, name)

        @functools.wraps(own)
        def timed(*said: Any, **words: Any) -> Any:
            self.turn()
            self.open.append(stage)
            try:
                return own(*said, **words)
            finally:
                self.turn()
                self.open.pop()

        setattr(place, name, timed)

    def taken(self) -> dict[str, Any]:
        """Since it was last asked."""
        self.turn()
        seconds, self.began = time.perf_counter() - self.began, time.perf_counter()
        stages, self.seconds = dict(self.seconds), Counter()
        return {"seconds": seconds, "processor": sum(stages.values()), "stages": stages}


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
    said = parser.parse_args()
    torch.set_num_threads(said.threads)
    stages, epochs = Stages(), []
    for place, name, stage in (
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
        stages.wrap(place, name, stage)
    close = trainer.Trainer._end_epoch

    def closed(own: Trainer) -> None:
        close(own)
        epochs.append(stages.taken())

    Trainer._end_epoch = closed  # type: ignore[method-assign]
    settings: dict[str, Any] = {
        "data.val": 0,
        "data.test": 0,
        **dict(each.split("=") for each in said.set),
    }
    words = {
        "tuning": said.tuning,
        "backbone": "resnet18",
        "weights": said.weights,
        "epochs": said.epochs,
        "device": "cpu",
    }
    with tempfile.TemporaryDirectory() as place:
        foveate.fit(said.folder, out=Path(place) / "run", settings=settings, **words)
    count = len(list(find_images(said.folder)))
    print(json.dumps({"images": count, "epochs": epochs, "after": stages.taken()}))


if __name__ == "__main__":
    main()
