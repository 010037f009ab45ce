"""Training speed against torchvision (a textbook loop), timm, transformers and fastai.

    python bench/peers.py --data DATA --out OUT [--cases full probe start stages whole]
        [--threads 1] [--repeats 5] [--fastai PYTHON]

All loops use the same photographs, backbone and weights. Photographs: 2,000 crops of clothing's 600
training images at 500 x 375 px, JPEG of quality 90; no data set at hand has this many photographs
of more than thumbnail size. Network: a ResNet-18 from random weights of seed 0, whose normalization
statistics were measured on these photographs; the time of a step does not depend on the weights.

full    Time per image in epochs after the first, all weights trained; the loops alternate. The
        other libraries train on 64 photographs, Foveate on all, with the augmentation, precision
        and memory format that its run of 20 epochs selects by itself.
probe   Foveate's whole process from the command to a saved run on the 2,000 photographs with an
        empty cache, with its defaults and with the pooled vector alone (`task.features=pooled`), as
        the loops use it. It alternates with the second epoch of the textbook loop on 64
        photographs, all weights trained and with a frozen backbone, times 2,000 / 64 and 20.
start   Time of `foveate predict` alternating with a process that imports torch and timm.
stages  Time of the stages of the textbook loop and (by bench/stages.py) of a fit and of a probe.
whole   Foveate's run of 20 epochs on the 2,000 photographs, all weights trained, once, from the
        command to a saved run.

Times are wall clock, and CPU time, which other work on the machine disturbs less. Rows are appended
to OUT/peers.jsonl; those already there are not measured again. `--fastai` is an interpreter that
has fastai; without one its rows are left out, with a message. Prints the tables of
docs/benchmarks/speed.md.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import foveate
from common import BENCH, FOVEATE, ResultFile, child_cpu_seconds, parse_options, run_python
from foveate.data.discovery import find_images
from foveate.images.codec import read_image, resize
from loops import LOOPS

PHOTOS, FEW_PHOTOS, LONG, SHORT = 2000, 64, 500, 375
EPOCHS = 20  # of a whole run
TEXTBOOK_EPOCHS = 3  # timed; the second and the third cost the same
WHOLE_RUN_SETTINGS = [
    "training.precision=bf16",
    "training.channels_last=true",
    "augment.policy=trivial",
]


def photographs(source: Path, folder: Path, count: int) -> Path:
    """Write crops of at least 60 % of the area, in turn from all photographs.

    The first ones are the same for every `count`.
    """
    rng, paths = np.random.default_rng(0), sorted(source.rglob("*.jpg"))
    order = rng.permutation(len(paths))
    for index in range(0 if folder.is_dir() else count):
        path = paths[order[index % len(paths)]]
        pixels, sides = read_image(path)
        share = rng.uniform(0.6, 1) ** 0.5
        height, width = (round(share * side) for side in sides)
        y, x = (
            int(rng.integers(side - part + 1))
            for side, part in zip(sides, (height, width), strict=True)
        )
        size = (LONG, SHORT) if height > width else (SHORT, LONG)
        file = folder / path.parent.name / f"{index:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(resize(pixels[y : y + height, x : x + width], size)).save(file, quality=90)
    return folder


def start_weights(folder: Path, file: Path) -> Path:
    """Write random weights with batch statistics of photographs: else activations overflow."""
    if file.is_file():
        return file
    torch.manual_seed(0)
    network = timm.create_model("resnet18")
    images = np.stack(
        [
            read_image(path, 224)[0][:224, :224]
            for path in sorted(folder.rglob("*.jpg"))[:FEW_PHOTOS]
        ]
    )
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
    with torch.no_grad():
        for batch in torch.from_numpy(images).permute(0, 3, 1, 2).split(64):
            network.train()((batch / 255 - 0.45) / 0.225)
    save_file(
        {
            name: tensor
            for name, tensor in network.state_dict().items()
            if not name.startswith("fc.")
        },
        file,
    )
    return file


class Bench:
    """The inputs, and a method for each case."""

    def __init__(self, options: Any) -> None:
        self.options, self.threads = options, options.threads
        self.results = ResultFile(options.out / "peers.jsonl")
        source = options.data / "clothing" / "train"
        self.photos, self.few = (
            photographs(source, options.out / f"photos-{n}", n) for n in (PHOTOS, FEW_PHOTOS)
        )
        self.weights = start_weights(self.photos, options.out / "resnet18.safetensors")

    def full(self, repeat: int) -> None:
        for loop in LOOPS:
            epochs = TEXTBOOK_EPOCHS if loop == "textbook" and not repeat else 2
            if not self.has("full", loop, repeat) and (result := self.run_loop(loop, epochs)):
                self.add(
                    "full",
                    loop,
                    repeat,
                    **per_image(result["epochs"][1:], FEW_PHOTOS),
                    versions=result["versions"],
                )
        if not self.has("full", "foveate", repeat):
            result = self.run_stages("full", *WHOLE_RUN_SETTINGS)
            versions = {name: version(name) for name in ("torch", "timm")}
            second = result["epochs"][1]
            self.add(
                "full",
                "foveate",
                repeat,
                **per_image([second], PHOTOS),
                stages=second["stages"],
                versions=versions,
            )

    def probe(self, repeat: int) -> None:
        if self.has("probe", "foveate", repeat):
            return
        default, pooled = (
            self.run_fit(self.photos, "probe"),
            self.run_fit(self.photos, "probe", "task.features=pooled"),
        )
        full, frozen = self.run_loop("textbook", 2), self.run_loop("textbook", 2, "--head")
        assert full is not None
        assert frozen is not None
        row: dict[str, Any] = {name: default[name] for name in ("seconds", "cpu_seconds")}
        row |= {f"pooled_{name}": pooled[name] for name in ("seconds", "cpu_seconds")}
        for name, result in (("full", full), ("frozen", frozen)):
            for clock in ("seconds", "cpu_seconds"):
                row[f"{name}_{clock}"] = EPOCHS * PHOTOS / FEW_PHOTOS * result["epochs"][1][clock]
        self.add("probe", "foveate", repeat, **row)

    def whole(self, repeat: int) -> None:
        if not self.has("whole", "foveate", 0):
            self.add("whole", "foveate", 0, **self.run_fit(self.photos, "full"))

    def stages(self, repeat: int) -> None:
        if not self.has("stages", "textbook", 0) and (result := self.run_loop("textbook", 2)):
            self.add("stages", "textbook", 0, images=FEW_PHOTOS, epochs=[result["stages"]])
        for tuning, settings in (("full", WHOLE_RUN_SETTINGS), ("probe", [])):
            if not self.has("stages", tuning, 0):
                self.add("stages", tuning, 0, **self.run_stages(tuning, *settings))

    def start(self, repeat: int) -> None:
        if self.has("start", "foveate", repeat):
            return
        run = self.options.out / "start-run"
        if not (run / "finished.json").is_file():
            options = {
                "backbone": "resnet18",
                "weights": str(self.weights),
                "settings": {"data.val": 0, "data.test": 0},
            }
            foveate.fit(self.few, tuning="probe", device="cpu", out=run, **options)
        image, row = next(iter(find_images(self.few))), dict[str, float]()
        predict = [*FOVEATE, "predict", str(run), str(image), "--device", "cpu"]
        for name, command in (
            ("predict", predict),
            ("imports", ["-c", "import torch, timm; print(0)"]),
        ):
            before = child_cpu_seconds()
            row[f"{name}_seconds"] = run_python(command, self.threads)[1]
            row[f"{name}_cpu_seconds"] = child_cpu_seconds() - before
        self.add("start", "foveate", repeat, **row)

    # --- processes

    def run_loop(self, loop: str, epochs: int, *options: str) -> dict[str, Any] | None:
        """Run bench/loops.py; return None if the library is not installed."""
        python = self.options.fastai if loop == "fastai" else ""
        arguments = [str(self.few), str(self.weights), "--threads", str(self.threads)]
        arguments += ["--epochs", str(epochs), *options]
        limits = {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        command = [python or sys.executable, str(BENCH / "loops.py"), loop, *arguments]
        process = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **limits}
        )
        if process.returncode:
            print(process.stderr.strip().splitlines()[-1], file=sys.stderr)
            return None
        return dict(json.loads(process.stdout.strip().splitlines()[-1]))

    def run_stages(self, tuning: str, *settings: str) -> dict[str, Any]:
        """Run bench/stages.py for a fit of two epochs, with an empty cache."""
        arguments = [str(BENCH / "stages.py"), str(self.photos), str(self.weights), tuning]
        arguments += ["--threads", str(self.threads), "--epochs", "2", "--set", *settings]
        with tempfile.TemporaryDirectory() as cache:
            return dict(json.loads(run_python(arguments, self.threads, FOVEATE_CACHE=cache)[0]))

    def run_fit(self, photos: Path, tuning: str, *settings: str) -> dict[str, Any]:
        """Fit in a process of its own; return seconds, automatic choices and ends of epochs."""
        arguments = ["fit", str(photos), "--tuning", tuning, "--backbone", "resnet18"]
        arguments += ["--weights", str(self.weights), "--device", "cpu"]
        arguments += ["--epochs", str(EPOCHS), "--json"]
        arguments += [
            argument
            for setting in ("data.val=0", "data.test=0", *settings)
            for argument in ("--set", setting)
        ]
        with tempfile.TemporaryDirectory() as folder:
            before, run = child_cpu_seconds(), Path(folder) / "run"
            _, seconds = run_python(
                [*FOVEATE, *arguments, "--out", str(run)],
                self.threads,
                FOVEATE_CACHE=str(Path(folder) / "cache"),
            )
            cpu_seconds, log = child_cpu_seconds() - before, run / "metrics.jsonl"
            ends = (
                [json.loads(line)["seconds"] for line in log.read_text().splitlines()]
                if log.is_file()
                else []
            )
            choices = {
                row["field"]: row["value"] for row in json.loads((run / "choices.json").read_text())
            }
        return {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "epoch_ends": ends,
            "choices": choices,
        }

    def has(self, case: str, loop: str, repeat: int) -> bool:
        return self.results.has(case=case, loop=loop, repeat=repeat, threads=self.threads)

    def add(self, case: str, loop: str, repeat: int, **values: Any) -> None:
        self.results.add(
            {"case": case, "loop": loop, "threads": self.threads, "repeat": repeat, **values}
        )


def per_image(epochs: list[dict[str, float]], count: int) -> dict[str, Any]:
    """Return milliseconds per image, wall clock and CPU: means over epochs, and each epoch."""
    by_epoch = {
        clock: [1000 * epoch[clock] / count for epoch in epochs]
        for clock in ("seconds", "cpu_seconds")
    }
    return {
        "ms": statistics.mean(by_epoch["seconds"]),
        "cpu_ms": statistics.mean(by_epoch["cpu_seconds"]),
        "by_epoch": by_epoch,
    }


def summary(rows: list[dict[str, Any]], threads: int) -> str:
    """Return the tables of docs/benchmarks/speed.md.

    Ratios are of wall-clock times of the same round; medians, with minimum and maximum.
    """
    by = {
        case: [row for row in rows if row["threads"] == threads and row["case"] == case]
        for case in ("full", "probe", "start")
    }
    foveate_rows = {row["repeat"]: row for row in by["full"] if row["loop"] == "foveate"}
    lines = [f"| loop (--threads {threads}) | ms per image | ratio |", "|---|---|---|"]
    for loop in dict.fromkeys(row["loop"] for row in by["full"]):
        group = [row for row in by["full"] if row["loop"] == loop and row["repeat"] in foveate_rows]
        ratio = with_range([row["ms"] / foveate_rows[row["repeat"]]["ms"] for row in group])
        lines.append(f"| {loop} | {statistics.median(row['ms'] for row in group):.1f} | {ratio} |")
    lines += [
        "",
        "| ratio of wall-clock times | default | pooled | default, without imports | pooled, "
        "without imports |",
    ]
    lines += [
        "|---|---|---|---|---|",
        *(probe_row(by["probe"], by["start"], over) for over in ("full", "frozen")),
    ]
    start = [row["predict_seconds"] / row["imports_seconds"] for row in by["start"]]
    lines += ["", f"start: {with_range(start)}"]
    shares = [overhead(row["stages"]) for row in foveate_rows.values() if "stages" in row]
    return "\n".join(
        [
            *lines,
            f"outside of the model: {with_range([100 * share for share in shares])} % of CPU time",
        ]
    )


def probe_row(rows: list[dict[str, Any]], starts: list[dict[str, Any]], over: str) -> str:
    """Return a row: twenty textbook epochs over a probe's seconds, with and without imports."""
    imports, cells = {row["repeat"]: row["imports_seconds"] for row in starts}, []
    for less in (dict.fromkeys(imports, 0.0), imports):
        for key in ("seconds", "pooled_seconds"):
            group = [row for row in rows if row["repeat"] in less]
            cells.append(
                with_range(
                    [row[f"{over}_seconds"] / (row[key] - less[row["repeat"]]) for row in group]
                )
            )
    return f"| textbook, {over} | {' | '.join(cells)} |"


def with_range(values: list[float]) -> str:
    """Return the median, with minimum and maximum."""
    if not values:
        return "not measured"
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def overhead(stages: dict[str, float]) -> float:
    """Return the share of an epoch outside of forward pass, backward pass and optimizer step."""
    return 1 - (stages["forward and backward"] + stages["step"]) / sum(stages.values())


def main() -> None:
    options = parse_options(
        __doc__, [], ["full", "probe", "start", "stages", "whole"], threads=1, repeats=5, fastai=""
    )
    bench = Bench(options)
    methods = {
        "full": bench.full,
        "probe": bench.probe,
        "start": bench.start,
        "stages": bench.stages,
        "whole": bench.whole,
    }
    torch.set_num_threads(options.threads)
    for repeat in range(options.repeats):
        for case in options.cases:
            methods[case](repeat)
    print(summary(bench.results.rows, options.threads))


if __name__ == "__main__":
    main()
