"""How fast a GPU trains, and what holds it up: images a second of a whole epoch, by loader
processes, and of the steps alone.

    python bench/gpu.py --out OUT [--ways resnet50 vit_small_patch16_224] [--seeds 0] [--images
    4000] [--epochs 3]

The pictures are drawn here (256 px JPEG): what they show does not matter for the time. An epoch's
images a second are those of the last epoch of `fit --tuning full` at 224 px, in batches of 128,
pixels kept after the first. Steps alone take one batch that is on the GPU already: forward,
backward and AdamW; `compiled` has the forward pass under torch.compile, whose own time is told
beside it. Needs a GPU. Rows land in OUT/gpu.jsonl.
"""

from __future__ import annotations

import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

import foveate
from foveate.modeling.backbones import family_of
from foveate.run.folder import Run
from foveate.types import Provides
from foveate.utils.device import ComputeMode
from spine import Rows, words

BATCH, STEPS, SIDE = 128, 20, 224
WORKERS = (0, None)  # None: as many as Foveate takes
WAYS = [ComputeMode("fp32", False), ComputeMode("fp32", True), ComputeMode("bf16", True)]


def draw(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(path, quality=85)


def epoch(backbone: str, pictures: Path, workers: int | None, epochs: int, seed: int) -> float:
    """Images a second of the last epoch."""
    settings = {"data.workers": workers, "data.val": 0, "data.test": 0, "data.near_duplicates": 1}
    settings |= {
        "training.precision": "bf16",
        "training.channels_last": True,
        "training.head_init": "random",
    }
    with tempfile.TemporaryDirectory() as folder:
        said: dict[str, Any] = {
            "backbone": backbone,
            "weights": "none",
            "size": SIDE,
            "batch_size": BATCH,
            "epochs": epochs,
        }
        fitted = foveate.fit(
            pictures,
            tuning="full",
            device="cuda",
            seed=seed,
            settings=settings,
            out=Path(folder) / "run",
            **said,
        )
        ends = [row["seconds"] for row in Run(fitted.run).read_metrics()]
    return float(sum(1 for _ in pictures.rglob("*.jpg")) / (ends[-1] - ends[-2]))


def steps(backbone: str, way: ComputeMode, compiled: bool) -> tuple[float, float]:
    """Images a second, and the seconds until the third step was done."""
    device = torch.device("cuda")
    network: Any = (
        family_of(backbone)
        .open(backbone, "none", SIDE, 0.0)
        .train()
        .to(device=device, memory_format=way.memory_format)
    )
    head = torch.nn.Linear(network.width, 2, device=device)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], fused=True)
    images = torch.randn(BATCH, 3, SIDE, SIDE, device=device).contiguous(
        memory_format=way.memory_format
    )
    truth = torch.zeros(BATCH, dtype=torch.long, device=device)

    def forward(images: torch.Tensor) -> torch.Tensor:
        with way.autocast(device):
            return functional.cross_entropy(head(network(images, {Provides.POOLED}).pooled), truth)

    run = torch.compile(forward) if compiled else forward

    def step() -> None:
        run(images).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    start = time.perf_counter()
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    warm, start = time.perf_counter() - start, time.perf_counter()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    return STEPS * BATCH / (time.perf_counter() - start), warm


def main() -> None:
    options = words(
        __doc__, [], ["resnet50", "vit_small_patch16_224"], threads=1, images=4000, epochs=3
    )
    rows = Rows(options.out / "gpu.jsonl")
    card = torch.cuda.get_device_name()
    for backbone, (way, compiled) in product(
        options.ways, [*((way, False) for way in WAYS), (WAYS[-1], True)]
    ):
        key = {
            "backbone": backbone,
            "what": f"steps, {way}{', compiled' if compiled else ''}",
            "card": card,
        }
        if not rows.has(**key):
            rate, warm = steps(backbone, way, compiled)
            rows.add({**key, "rate": rate, "warm": warm})
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), options.images)
        for backbone, workers, seed in product(options.ways, WORKERS, options.seeds):
            how = "the default of" if workers is None else str(workers)
            key = {
                "backbone": backbone,
                "what": f"epoch, {how} workers",
                "card": card,
                "seed": seed,
            }
            if not rows.has(**key):
                rows.add(
                    {**key, "rate": epoch(backbone, Path(folder), workers, options.epochs, seed)}
                )
    for row in rows.rows:
        print(f"| {row['backbone']} | {row['what']} | {row['rate']:.0f} |")


if __name__ == "__main__":
    main()
