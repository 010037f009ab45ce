"""Against the usual loops: textbook torchvision, timm, transformers and fastai, on the same photographs, backbone and weights.

    python bench/peers.py --data DATA --out OUT [--ways full probe stages start] [--threads 1] [--repeats 5] [--fastai PYTHON]

The photographs: 2,000 crops of clothing's 600 training photographs at 500 x 375 px, JPEG of quality 90; of the sets at hand none has so
many photographs of more than thumbnail size. The network: a ResNet-18 from random weights of seed 0, whose statistics were measured on
these photographs; how long a step takes does not hang on what the weights are.

full    seconds an image in epochs after the first, every weight trained, in turns. Peers on 256 photographs, Foveate on 512, told to
        distort pictures and to reckon as its run of 20 epochs of 2,000 photographs chooses by itself.
probe   Foveate's whole process from words to a saved run on the 2,000 photographs with an empty cache, in turns with the second epoch of
        the textbook loop on 256 of them, every weight trained and with a frozen backbone, times 2,000 / 256 and 20.
whole   Foveate's run of 20 epochs of the 2,000 photographs, every weight trained, once, from words to a saved run.
stages  where the time of the textbook loop, of a fit and of a probe goes.
start   `foveate predict` to its answer, beside a process that imports torch and timm, in turns.

Rows land in OUT/peers.jsonl, and a row that is there is not measured again. `--fastai`: the interpreter that has it; where it has not,
its rows are left out, and it says so.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import foveate
from foveate import images
from loops import WAYS as LOOPS
from spine import HERE, Rows, python, spent, words

PHOTOS, MANY, FEW, LONG, SHORT = 2000, 512, 256, 500, 375
EPOCHS, TEXTBOOK_EPOCHS = 20, 3
PROGRAM = ["-c", "from foveate.cli import main; main()"]
LIKE_WHOLE = ["training.precision=bf16", "training.channels_last=true", "augment.policy=trivial"]


def photographs(source: Path, folder: Path, count: int) -> Path:
    """Crops of at least 60 % of the area, taken in turn from all photographs; the first ones are the same for every `count`."""
    chance, found = np.random.default_rng(0), sorted(source.rglob("*.jpg"))
    order = chance.permutation(len(found))
    for place in range(0 if folder.is_dir() else count):
        path = found[order[place % len(found)]]
        pixels, whole = images.read(path)
        share = chance.uniform(0.6, 1) ** 0.5
        height, width = (round(share * side) for side in whole)
        y, x = (int(chance.integers(side - part + 1)) for side, part in zip(whole, (height, width), strict=True))
        size = (LONG, SHORT) if height > width else (SHORT, LONG)
        file = folder / path.parent.name / f"{place:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.resized(pixels[y : y + height, x : x + width], size)).save(file, quality=90)
    return folder


def start_weights(folder: Path, file: Path) -> Path:
    """Random weights whose batch normalisation has seen 256 of the photographs: else their answers overflow."""
    if file.is_file():
        return file
    torch.manual_seed(0)
    network = timm.create_model("resnet18")
    seen = np.stack([images.read(path, 224)[0][:224, :224] for path in sorted(folder.rglob("*.jpg"))[:FEW]])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
    with torch.no_grad():
        for batch in torch.from_numpy(seen).permute(0, 3, 1, 2).split(64):
            network.train()((batch / 255 - 0.45) / 0.225)
    save_file({name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}, file)
    return file


class Bench:
    """Where everything lies, and what is asked of every fit."""

    def __init__(self, options: Any) -> None:
        self.options, self.rows, self.threads = options, Rows(options.out / "peers.jsonl"), options.threads
        source = options.data / "clothing" / "train"
        self.photos, self.many, self.few = (photographs(source, options.out / f"photos-{n}", n) for n in (PHOTOS, MANY, FEW))
        self.weights = start_weights(self.photos, options.out / "resnet18.safetensors")

    def loop(self, way: str, *said: str) -> dict[str, Any] | None:
        """What bench/loops.py says; None where the library is not there."""
        own = self.options.fastai if way == "fastai" and self.options.fastai else sys.executable
        words = [own, str(HERE / "loops.py"), way, str(self.few), str(self.weights), "--threads", str(self.threads), *said]
        limits = {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **limits})
        if done.returncode:
            print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
            return None
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))

    def fit(self, photos: Path, tuning: str, *settings: str, epochs: int = EPOCHS) -> dict[str, Any]:
        """A whole process; seconds, those of the processor, and those of each epoch."""
        said = ["fit", str(photos), "--tuning", tuning, "--backbone", "resnet18", "--weights", str(self.weights), "--device", "cpu"]
        said += ["--epochs", str(epochs), "--json"]
        for setting in ("data.val=0", "data.test=0", *settings):
            said += ["--set", setting]
        with tempfile.TemporaryDirectory() as folder:
            before, run = spent(), Path(folder) / "run"
            _, seconds = python([*PROGRAM, *said, "--out", str(run)], self.threads, FOVEATE_CACHE=str(Path(folder) / "cache"))
            lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").is_file() else []
            marks = [json.loads(line)["seconds"] for line in lines]
            chosen = {row["field"]: row["value"] for row in json.loads((run / "choices.json").read_text())}
        each = [end - start for start, end in zip([0.0, *marks], marks, strict=False)]
        return {"seconds": seconds, "processor": spent() - before, "epochs": each, "chosen": chosen}

    def full(self, repeat: int) -> None:
        for way in LOOPS:
            epochs = TEXTBOOK_EPOCHS if way == "textbook" else 2
            if not self.known("full", way, repeat) and (found := self.loop(way, "--epochs", str(epochs))):
                later = [epoch["seconds"] / FEW for epoch in found["epochs"][1:]]
                self.add("full", way, repeat, image_seconds=statistics.mean(later), each=later, versions=found["versions"])
        if not self.known("full", "foveate", repeat):
            later = [seconds / MANY for seconds in self.fit(self.many, "full", *LIKE_WHOLE, epochs=3)["epochs"][1:]]
            versions = {name: foveate_versions()[name] for name in ("foveate", "torch")}
            self.add("full", "foveate", repeat, image_seconds=statistics.mean(later), each=later, versions=versions)

    def probe(self, repeat: int) -> None:
        if self.known("probe", "foveate", repeat):
            return
        whole = self.fit(self.photos, "probe")
        full, frozen = (self.loop("textbook", *said) for said in ((), ("--head",)))
        assert full is not None and frozen is not None
        times = {name: EPOCHS * PHOTOS / FEW * found["epochs"][1]["seconds"] for name, found in (("full", full), ("frozen", frozen))}
        ratios = {f"{name}_ratio": seconds / whole["seconds"] for name, seconds in times.items()}
        self.add("probe", "foveate", repeat, seconds=whole["seconds"], processor=whole["processor"], **times, **ratios)

    def whole(self, repeat: int) -> None:
        if not self.known("whole", "foveate", 0):
            self.add("whole", "foveate", 0, **self.fit(self.photos, "full"))

    def start(self, repeat: int) -> None:
        if self.known("start", "foveate", repeat):
            return
        run = self.options.out / "start-run"
        if not (run / "finished.json").is_file():
            kept = {"data.val": 0, "data.test": 0}
            foveate.fit(self.few, tuning="probe", backbone="resnet18", weights=str(self.weights), device="cpu", out=run, settings=kept)
        picture = next(iter(images.find_images(self.few)))
        ours = python([*PROGRAM, "predict", str(run), str(picture), "--device", "cpu"], self.threads)[1]
        theirs = python(["-c", "import torch, timm; print()"], self.threads)[1]
        self.add("start", "foveate", repeat, seconds=ours, imports=theirs, ratio=ours / theirs)

    def known(self, what: str, way: str, repeat: int) -> bool:
        return self.rows.has(what=what, way=way, repeat=repeat, threads=self.threads)

    def add(self, what: str, way: str, repeat: int, **found: Any) -> None:
        self.rows.add({"what": what, "way": way, "threads": self.threads, "repeat": repeat, **found})
