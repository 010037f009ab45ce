"""Training speed on a GPU: images per second of epochs, by loader processes, and of steps.

    python bench/gpu.py --out OUT [--cases resnet50 vit_small_patch16_224] [--seeds 0]
        [--images 4000] [--epochs 3]

The cases are backbones. The images are generated (256 px JPEG), as their content does not matter
for the speed. The rate of an epoch is that of the last epoch of `fit --tuning full` at 224 px, in
batches of 128, with decoded pixels kept after the first epoch. Steps alone use one batch that is
already on the GPU: forward, backward and AdamW. `compiled` runs the forward pass under
torch.compile; the seconds until the third step include its compilation.

Needs a GPU. Rows are appended to OUT/gpu.jsonl; those already there are not measured again.
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
from common import ResultFile, parse_options
from foveate.modeling.backbones import family_of
from foveate.run.folder import Run
from foveate.types import Provides
from foveate.utils.device import ComputeMode

BATCH, STEPS, SIDE = 128, 20, 224
WORKERS = (0, None)  # None: the default of Foveate
MODES = [ComputeMode("fp32", False), ComputeMode("fp32", True), ComputeMode("bf16", True)]


def write_images(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(path, quality=85)


def measure_epoch(
    backbone: str, folder: Path, workers: int | None, epochs: int, seed: int
) -> float:
    """Return images per second of the last epoch."""
    settings = {"data.workers": workers, "data.val": 0, "data.test": 0, "data.near_duplicates": 1}
    settings |= {
        "training.precision": "bf16",
        "training.channels_last": True,
        "training.head_init": "random",
    }
    with tempfile.TemporaryDirectory() as out:
        options: dict[str, Any] = {
            "backbone": backbone,
            "weights": "none",
            "size": SIDE,
            "batch_size": BATCH,
            "epochs": epochs,
        }
        fitted = foveate.fit(
            folder,
            tuning="full",
            device="cuda",
            seed=seed,
            settings=settings,
            out=Path(out) / "run",
            **options,
        )
        ends = [row["seconds"] for row in Run(fitted.run).read_metrics()]
    return float(sum(1 for _ in folder.rglob("*.jpg")) / (ends[-1] - ends[-2]))


def measure_steps(backbone: str, mode: ComputeMode, compiled: bool) -> tuple[float, float]:
    """Return images per second, and the seconds until the end of the third step."""
    device = torch.device("cuda")
    network: Any = (
        family_of(backbone)
        .open(backbone, "none", SIDE, 0.0)
        .train()
        .to(device=device, memory_format=mode.memory_format)
    )
    head = torch.nn.Linear(network.width, 2, device=device)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], fused=True)
    images = torch.randn(BATCH, 3, SIDE, SIDE, device=device).contiguous(
        memory_format=mode.memory_format
    )
    targets = torch.zeros(BATCH, dtype=torch.long, device=device)

    def forward(images: torch.Tensor) -> torch.Tensor:
        with mode.autocast(device):
            return functional.cross_entropy(
                head(network(images, {Provides.POOLED}).pooled), targets
            )

    run = torch.compile(forward) if compiled else forward

    def step() -> None:
        run(images).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    start = time.perf_counter()
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    warmup, start = time.perf_counter() - start, time.perf_counter()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    return STEPS * BATCH / (time.perf_counter() - start), warmup


def main() -> None:
    options = parse_options(
        __doc__, [], ["resnet50", "vit_small_patch16_224"], threads=1, images=4000, epochs=3
    )
    results = ResultFile(options.out / "gpu.jsonl")
    gpu = torch.cuda.get_device_name()
    for backbone, (mode, compiled) in product(
        options.cases, [*((mode, False) for mode in MODES), (MODES[-1], True)]
    ):
        key = {
            "backbone": backbone,
            "case": f"steps, {mode}{', compiled' if compiled else ''}",
            "gpu": gpu,
        }
        if not results.has(**key):
            rate, warmup = measure_steps(backbone, mode, compiled)
            results.add({**key, "images_per_second": rate, "warmup_seconds": warmup})
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), options.images)
        for backbone, workers, seed in product(options.cases, WORKERS, options.seeds):
            workers_text = "default" if workers is None else str(workers)
            key = {
                "backbone": backbone,
                "case": f"epoch, {workers_text} workers",
                "gpu": gpu,
                "seed": seed,
            }
            if not results.has(**key):
                results.add(
                    {
                        **key,
                        "images_per_second": measure_epoch(
                            backbone, Path(folder), workers, options.epochs, seed
                        ),
                    }
                )
    for row in results.rows:
        print(f"| {row['backbone']} | {row['case']} | {row['images_per_second']:.0f} |")


if __name__ == "__main__":
    main()
