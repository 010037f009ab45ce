"""Exported files against their runs: how far apart, how fast, and what eight bits cost.

    python bench/export.py --data DATA --out OUT [--ways families places int8 speed] [--seeds 0]
    [--threads 2]

families: networks of every kind at 224 px, all weights trained for a few epochs on 60 images of
clothing, so that their statistics are measured; told is the greatest difference of chances and of
features on validation images, by runtime, and how sure the run's answers are (chances of exactly 0
and 1 would differ by nothing). places: detectors on the validation part of bccd and a U-Net on that
of camvid, on EfficientNet-Lite0 at 224 px, trained for a few epochs; and the sentences that
bench/caption.py leaves (OUT/caption-emoji-0); told are the greatest differences of outputs and the
main number of the run and of the file on the run's own validation images. int8: a ResNet-18 that
bench/pretrain.py taught from EfficientNet-Lite0 (OUT/pretrain-distill-0), a probe on clothing and
the same trained in full, at 128 px, on clothing's validation folder; images a second in batches of
32 of torch, of the ONNX file, of its int8 one, and of timm's ResNet-18 by itself (Foveate lets the
allocator keep its pages, which makes torch faster), each in processes of its own, in turns, medians
of five. speed: the same at 224 px, of the ResNet-18 of `families`. A quiet machine is needed, and
OMP_NUM_THREADS as --threads.

Rows land in OUT/export.jsonl, and a row that is there is not measured again.
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
from foveate.data.formats import read_table
from foveate.evaluation.intervals import wilson
from places import pairs
from spine import Rows, words

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
PLACES = {"fcos": "bccd", "retinanet": "bccd", "unet": "camvid", "caption": "caption"}
IMAGES, BATCH, ROUNDS, TURNS, EPOCHS, PLACE_EPOCHS = 60, 32, 9, 5, 4, 6


def main() -> None:
    options = words(__doc__, [], ["families", "places", "int8", "speed"], threads=2)
    rows = Rows(options.out / "export.jsonl")
    torch.set_num_threads(options.threads)
    if "families" in options.ways:
        few = chosen(options.data / "clothing" / "train", options.out / "export-images")
        for name in FAMILIES:
            if not rows.has(way="families", backbone=name):
                rows.add(
                    {
                        "way": "families",
                        "backbone": name,
                        **apart(name, few, options.out / f"export-{name}"),
                    }
                )
    if "places" in options.ways:
        for head, name in PLACES.items():
            if not rows.has(way="places", head=head):
                rows.add(
                    {"way": "places", "head": head, **placed(options.data, name, head, options.out)}
                )
    for tuning in ("probe", "full") if "int8" in options.ways else ():
        if not rows.has(way="int8", tuning=tuning):
            rows.add(
                {
                    "way": "int8",
                    "tuning": tuning,
                    "threads": options.threads,
                    **small(options.data, options.out, tuning),
                }
            )

    if "speed" in options.ways and not rows.has(way="speed"):
        run = options.out / "export-resnet18"
        shutil.rmtree(run / "export", ignore_errors=True)
        told = foveate.export(run, int8=True, max_drop=1.0)
        found = speeds(run, told.files[0].path, told.files[1].path, 224)
        rows.add({"way": "speed", "size": 224, "threads": options.threads, **found})


def chosen(data: Path, folder: Path) -> Path:
    """A folder of links to a few images of each class."""
    for place, path in enumerate(
        sorted(data.rglob("*.jpg"))[:: max(1, len(list(data.rglob("*.jpg"))) // IMAGES)]
    ):
        link = folder / path.parent.name / f"{place:04d}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(path.resolve())
    return folder


def apart(name: str, few: Path, run: Path) -> dict[str, Any]:
    shutil.rmtree(run, ignore_errors=True)
    settings = {"data.val": 0.5, "data.test": 0, "data.near_duplicates": 1}
    settings |= {"training.head_init": "random", "training.precision": "fp32"}
    words: dict[str, Any] = {
        "tuning": "full",
        "weights": "none",
        "epochs": EPOCHS,
        "batch_size": 10,
        "size": 224,
    }
    found = foveate.fit(few, backbone=name, out=run, device="cpu", settings=settings, **words)
    answers = foveate.predict(found.run, list(few.rglob("*.jpg")), device="cpu")
    row: dict[str, Any] = {
        "surest": statistics.median(float(answer.prediction.scores.max()) for answer in answers)
    }
    for runtime in RUNTIMES:
        try:
            file = foveate.export(found.run, runtime).files[0]
            row[runtime] = {**file.parity, "megabytes": file.size / 1e6}
        except foveate.errors.FoveateError as error:
            row[runtime] = {"refused": str(error)[:300]}
    return row


def placed(data: Path, name: str, head: str, out: Path) -> dict[str, Any]:
    """A few epochs: enough for answers that differ from picture to picture."""
    run = out / f"export-{head}"
    shutil.rmtree(run, ignore_errors=True)
    if name == "caption":
        run = out / "caption-emoji-0"
    else:
        source = held(pairs(name, data, out / "export-places")[0][1])
        plain = {
            "backbone": "tf_efficientnet_lite0",
            "weights": "offline",
            "device": "cpu",
            "size": 224,
            "epochs": PLACE_EPOCHS,
        }
        foveate.fit(source, out=run, settings={"task.head": head}, **plain)
    row: dict[str, Any] = {}
    for runtime in RUNTIMES:
        found = foveate.export(run, runtime, out=out / f"export-{head}-{runtime}").files[0]
        scores = {
            "measure": found.metric,
            "torch": found.run_score.value,
            "score": found.score.value,
        }
        row[runtime] = {**found.parity, **scores, "megabytes": found.size / 1e6}
    return row


def held(source: Path) -> Path:
    """The same images, as data to learn from."""
    if source.is_dir():
        return source
    card = yaml.safe_load(source.read_text(encoding="utf-8"))
    moved = {key: {"train": next(iter(card[key].values()))} for key in ("images", "masks")}
    source.write_text(yaml.safe_dump({**card, **moved}), encoding="utf-8")
    return source


def small(data: Path, out: Path, tuning: str) -> dict[str, Any]:
    run = out / f"export-resnet18-{tuning}"
    if not (run / "finished.json").is_file():
        asked: dict[str, Any] = {"settings": {"data.test": 0}, "device": "cpu", "size": 128}
        foveate.fit(
            data / "clothing" / "train",
            tuning=tuning,
            backbone=str(out / "pretrain-distill-0"),
            out=run,
            **asked,
        )
    shutil.rmtree(run / "export", ignore_errors=True)
    told = foveate.export(run, int8=True, max_drop=1.0)
    samples = read_table(data / "clothing" / "validation").samples
    truths = [sample.target.names[0] for sample in samples]
    paths = [sample.path for sample in samples]
    row: dict[str, Any] = {"count": len(paths), "calibrated": told.files[1].parity}
    for word, place in (("torch", run), ("onnx", told.files[0].path), ("int8", told.files[1].path)):
        answers = [answer.prediction.names[0] for answer in foveate.predict(place, paths)]
        right = sum(answer == truth for answer, truth in zip(answers, truths, strict=True))
        row[f"{word}_accuracy"] = right / len(truths)
        row[f"{word}_interval"] = list(wilson(right, len(truths)))
        row[f"{word}_megabytes"] = 0 if word == "torch" else place.stat().st_size / 1e6
    return {**row, **speeds(run, told.files[0].path, told.files[1].path, 128)}


TIMED = """
import statistics, sys, time
import numpy as np
what, place, side = sys.argv[1], sys.argv[2], int(sys.argv[3])
images = np.random.default_rng(0).integers(0, 256, (BATCH, 3, side, side), dtype=np.uint8)
if what == "plain":
    import timm, torch
    graph, tensor = timm.create_model("resnet18").eval(), torch.from_numpy(images).float()
elif what == "torch":
    import torch
    from foveate.inference.predictor import load_predictor
    from foveate.api.export.bundle import Graph
    graph, tensor = Graph.of(load_predictor(place, "cpu")), torch.from_numpy(images)
else:
    from pathlib import Path
    from foveate.deploy.runtime import open_exported
    graph, tensor = open_exported(Path(place)).run, images
def once():
    if what in ("plain", "torch"):
        with torch.inference_mode():
            graph(tensor)
    else:
        graph(tensor)
times = []
for turn in range(ROUNDS + 3):
    start = time.perf_counter()
    once()
    times.append(time.perf_counter() - start)
print(BATCH / statistics.median(times[3:]))
"""


def speeds(run: Path, fp32: Path, int8: Path, side: int) -> dict[str, Any]:
    """Images a second; `faster`, `over_plain`: the median of the ratios of neighbouring turns to
    Foveate's torch and to timm's.
    """
    places = {"plain": run, "torch": run, "onnx": fp32, "int8": int8}
    code = TIMED.replace("BATCH", str(BATCH)).replace("ROUNDS", str(ROUNDS))
    found: dict[str, list[float]] = {word: [] for word in places}
    for _ in range(TURNS):
        for word, place in places.items():
            command = [sys.executable, "-c", code, word, str(place), str(side)]
            found[word].append(
                float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            )
    row: dict[str, Any] = {
        f"{word}_per_second": statistics.median(rates) for word, rates in found.items()
    }
    for base, name in (("torch", "faster"), ("plain", "over_plain")):
        for word in ("onnx", "int8"):
            row[f"{word}_{name}"] = statistics.median(
                a / b for a, b in zip(found[word], found[base], strict=True)
            )
    return row


if __name__ == "__main__":
    main()
