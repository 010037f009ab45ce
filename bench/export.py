"""Exported files against their runs: differences of outputs, speed, and the loss by int8.

    python bench/export.py --data DATA --out OUT [--cases families tasks int8 speed] [--threads 2]

families  Networks of every kind at 224 px, all weights trained for a few epochs on 60 images of
          clothing, so that their normalization statistics are measured. Reported are the largest
          difference of probabilities and of features on validation images, by runtime, and the
          median confidence of the run (probabilities of exactly 0 and 1 would not differ at all).
tasks     Detectors on the validation part of bccd and a U-Net on that of camvid, on
          EfficientNet-Lite0 at 224 px, trained for a few epochs; and the captions run of
          bench/caption.py (OUT/caption-emoji-0). Reported are the largest differences of outputs,
          and the main metric of the run and of the file on the run's own validation images.
int8      The ResNet-18 that bench/pretrain.py distilled (OUT/pretrain-distill-0): a probe and full
          fine-tuning on clothing at 128 px, scored on clothing's validation folder. Images per
          second, in batches of 32, of torch, the ONNX file, its int8 version, and timm's ResNet-18
          by itself (Foveate lets the allocator keep its pages, which makes torch faster): each in
          a process of its own, in turn, medians of five rounds.
speed     The same speeds at 224 px, with the ResNet-18 of `families`.

Speeds need a quiet machine, and OMP_NUM_THREADS equal to --threads. Rows are appended to
OUT/export.jsonl; those already there are not measured again.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

import foveate
from common import ResultFile, parse_options
from detection_segmentation import train_test_pairs
from foveate.data.formats import read_table
from foveate.evaluation.intervals import wilson

FAMILIES = [
    "resnet18",
    "vgg11_bn",
    "densenet121",
    "inception_v3",
    "tf_efficientnet_lite0",
    "vit_tiny_patch16_224",
]
FAMILIES += ["swin_tiny_patch4_window7_224", "convnext_atto"]
RUNTIMES = ("onnx", "openvino")
HEADS = {"fcos": "bccd", "retinanet": "bccd", "unet": "camvid", "caption": "caption"}
IMAGES, BATCH, REPEATS, ROUNDS, EPOCHS, TASK_EPOCHS = 60, 32, 9, 5, 4, 6


def main() -> None:
    options = parse_options(__doc__, [], ["families", "tasks", "int8", "speed"], threads=2)
    results = ResultFile(options.out / "export.jsonl")
    torch.set_num_threads(options.threads)
    if "families" in options.cases:
        images = link_subset(options.data / "clothing" / "train", options.out / "export-images")
        for name in FAMILIES:
            if not results.has(case="families", backbone=name):
                results.add(
                    {
                        "case": "families",
                        "backbone": name,
                        **measure_family(name, images, options.out / f"export-{name}"),
                    }
                )
    if "tasks" in options.cases:
        for head, name in HEADS.items():
            if not results.has(case="tasks", head=head):
                results.add(
                    {
                        "case": "tasks",
                        "head": head,
                        **measure_task(options.data, name, head, options.out),
                    }
                )
    for tuning in ("probe", "full") if "int8" in options.cases else ():
        if not results.has(case="int8", tuning=tuning):
            results.add(
                {
                    "case": "int8",
                    "tuning": tuning,
                    "threads": options.threads,
                    **measure_int8(options.data, options.out, tuning),
                }
            )

    if "speed" in options.cases and not results.has(case="speed"):
        run = options.out / "export-resnet18"
        shutil.rmtree(run / "export", ignore_errors=True)
        exported = foveate.export(run, int8=True, max_drop=1.0)
        rates = measure_speeds(run, exported.files[0].path, exported.files[1].path, 224)
        results.add({"case": "speed", "size": 224, "threads": options.threads, **rates})


def link_subset(data: Path, folder: Path) -> Path:
    """Return a folder of links to a few images of each class."""
    paths = sorted(data.rglob("*.jpg"))
    for index, path in enumerate(paths[:: max(1, len(paths) // IMAGES)]):
        link = folder / path.parent.name / f"{index:04d}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(path.resolve())
    return folder


def measure_family(name: str, images: Path, run: Path) -> dict[str, Any]:
    """Train a network of a family, and compare its files with it."""
    shutil.rmtree(run, ignore_errors=True)
    settings = {"data.val": 0.5, "data.test": 0, "data.near_duplicates": 1}
    settings |= {"training.head_init": "random", "training.precision": "fp32"}
    options: dict[str, Any] = {
        "tuning": "full",
        "weights": "none",
        "epochs": EPOCHS,
        "batch_size": 10,
        "size": 224,
    }
    fitted = foveate.fit(images, backbone=name, out=run, device="cpu", settings=settings, **options)
    predictions = foveate.predict(fitted.run, list(images.rglob("*.jpg")), device="cpu")
    row: dict[str, Any] = {
        "median_confidence": statistics.median(
            float(result.prediction.scores.max()) for result in predictions
        )
    }
    for runtime in RUNTIMES:
        try:
            file = foveate.export(fitted.run, runtime).files[0]
            row[runtime] = {**file.parity, "megabytes": file.size / 1e6}
        except foveate.errors.FoveateError as error:
            row[runtime] = {"refused": str(error)[:300]}
    return row


def measure_task(data: Path, name: str, head: str, out: Path) -> dict[str, Any]:
    """Train for a few epochs, enough for predictions that differ, and compare the files."""
    run = out / f"export-{head}"
    shutil.rmtree(run, ignore_errors=True)
    if name == "caption":
        run = out / "caption-emoji-0"
    else:
        source = as_training_data(train_test_pairs(name, data, out / "export-tasks")[0][1])
        options = {
            "backbone": "tf_efficientnet_lite0",
            "weights": "offline",
            "device": "cpu",
            "size": 224,
            "epochs": TASK_EPOCHS,
        }
        foveate.fit(source, out=run, settings={"task.head": head}, **options)
    row: dict[str, Any] = {}
    for runtime in RUNTIMES:
        file = foveate.export(run, runtime, out=out / f"export-{head}-{runtime}").files[0]
        scores = {
            "metric": file.metric,
            "torch": file.run_score.value,
            "score": file.score.value,
        }
        row[runtime] = {**file.parity, **scores, "megabytes": file.size / 1e6}
    return row


def as_training_data(source: Path) -> Path:
    """Return the data set with its images as training images."""
    if source.is_dir():
        return source
    content = yaml.safe_load(source.read_text(encoding="utf-8"))
    moved = {key: {"train": next(iter(content[key].values()))} for key in ("images", "masks")}
    source.write_text(yaml.safe_dump({**content, **moved}), encoding="utf-8")
    return source


def measure_int8(data: Path, out: Path, tuning: str) -> dict[str, Any]:
    """Fine-tune the distilled ResNet-18; compare accuracy, size and speed of its files."""
    run = out / f"export-resnet18-{tuning}"
    if not (run / "finished.json").is_file():
        options: dict[str, Any] = {"settings": {"data.test": 0}, "device": "cpu", "size": 128}
        foveate.fit(
            data / "clothing" / "train",
            tuning=tuning,
            backbone=str(out / "pretrain-distill-0"),
            out=run,
            **options,
        )
    shutil.rmtree(run / "export", ignore_errors=True)
    exported = foveate.export(run, int8=True, max_drop=1.0)
    samples = read_table(data / "clothing" / "validation").samples
    targets = [sample.target.names[0] for sample in samples]
    paths = [sample.path for sample in samples]
    row: dict[str, Any] = {"count": len(paths), "calibrated": exported.files[1].parity}
    for name, path in (
        ("torch", run),
        ("onnx", exported.files[0].path),
        ("int8", exported.files[1].path),
    ):
        predicted = [result.prediction.names[0] for result in foveate.predict(path, paths)]
        correct = sum(one == target for one, target in zip(predicted, targets, strict=True))
        row[f"{name}_accuracy"] = correct / len(targets)
        row[f"{name}_interval"] = list(wilson(correct, len(targets)))
        row[f"{name}_megabytes"] = 0 if name == "torch" else path.stat().st_size / 1e6
    return {**row, **measure_speeds(run, exported.files[0].path, exported.files[1].path, 128)}


TIMING_SCRIPT = """
import statistics, sys, time
import numpy as np
name, path, side = sys.argv[1], sys.argv[2], int(sys.argv[3])
images = np.random.default_rng(0).integers(0, 256, (BATCH, 3, side, side), dtype=np.uint8)
if name == "plain":
    import timm, torch
    graph, tensor = timm.create_model("resnet18").eval(), torch.from_numpy(images).float()
elif name == "torch":
    import torch
    from foveate.inference.predictor import load_predictor
    from foveate.api.export.bundle import Graph
    graph, tensor = Graph.of(load_predictor(path, "cpu")), torch.from_numpy(images)
else:
    from pathlib import Path
    from foveate.deploy.runtime import open_exported
    graph, tensor = open_exported(Path(path)).run, images
def predict():
    if name in ("plain", "torch"):
        with torch.inference_mode():
            graph(tensor)
    else:
        graph(tensor)
times = []
for _ in range(REPEATS + 3):
    start = time.perf_counter()
    predict()
    times.append(time.perf_counter() - start)
print(BATCH / statistics.median(times[3:]))
"""


def measure_speeds(run: Path, fp32: Path, int8: Path, side: int) -> dict[str, Any]:
    """Return images per second.

    `*_over_torch` and `*_over_plain` are the medians over rounds of the ratio to Foveate's torch
    and to timm alone.
    """
    files = {"plain": run, "torch": run, "onnx": fp32, "int8": int8}
    code = TIMING_SCRIPT.replace("BATCH", str(BATCH)).replace("REPEATS", str(REPEATS))
    rates: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(ROUNDS):
        for name, path in files.items():
            command = [sys.executable, "-c", code, name, str(path), str(side)]
            rates[name].append(
                float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            )
    row: dict[str, Any] = {
        f"{name}_per_second": statistics.median(values) for name, values in rates.items()
    }
    for base in ("torch", "plain"):
        for name in ("onnx", "int8"):
            row[f"{name}_over_{base}"] = statistics.median(
                a / b for a, b in zip(rates[name], rates[base], strict=True)
            )
    return row


if __name__ == "__main__":
    main()
