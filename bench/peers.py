"""Against the usual loops: textbook torchvision, timm, transformers and fastai, on the same
photographs, backbone and weights.

    python bench/peers.py --data DATA --out OUT [--ways full probe start stages whole] [--threads 1]
    [--repeats 5] [--fastai PY]

The photographs: 2,000 crops of clothing's 600 training photographs at 500 x 375 px, JPEG of quality
90; of the sets at hand none has so many photographs of more than thumbnail size. The network: a
ResNet-18 from random weights of seed 0, whose statistics were measured on these photographs; how
long a step takes does not hang on what the weights are.

full    time an image in epochs after the first, every weight trained, in turns. Peers on 64
photographs, Foveate on all, told to
        distort pictures and to reckon as its run of 20 epochs chooses by itself.
probe   Foveate's whole process from words to a saved run on the 2,000 photographs with an empty
cache, as it chooses by itself and
        told to read the pooled vector alone, as the loops do; in turns with the second epoch of the
        textbook loop on 64 of them,
        all weights trained and with a frozen backbone, times 2,000 / 64 and 20.
start   `foveate predict` to its answer, beside a process that imports torch and timm, in turns.
stages  where the time of the textbook loop and, by bench/stages.py, of a fit and of a probe goes,
once.
whole   Foveate's run of 20 epochs of the 2,000 photographs, every weight trained, once, from words
to a saved run.

Times are by the clock and of the processor, which other work on the machine disturbs less. Rows
land in OUT/peers.jsonl, and a row that is there is not measured again. `--fastai`: the interpreter
that has it; without, its rows are left out, and it says so.
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
from foveate.data.discovery import find_images
from foveate.images import codec as images
from loops import WAYS as LOOPS
from spine import HERE, Rows, python, spent, words

PHOTOS, FEW, LONG, SHORT = 2000, 64, 500, 375
EPOCHS, TEXTBOOK_EPOCHS = (
    20,
    3,
)  # of a whole run; timed, of the textbook, whose second and third cost the same
PROGRAM = ["-c", "from foveate.cli.main import main; main()"]
LIKE_WHOLE = ["training.precision=bf16", "training.channels_last=true", "augment.policy=trivial"]


def photographs(source: Path, folder: Path, count: int) -> Path:
    """Crops of at least 60 % of the area, taken in turn from all photographs; the first ones are
    the same for every `count`.
    """
    chance, found = np.random.default_rng(0), sorted(source.rglob("*.jpg"))
    order = chance.permutation(len(found))
    for place in range(0 if folder.is_dir() else count):
        path = found[order[place % len(found)]]
        pixels, whole = images.read_image(path)
        share = chance.uniform(0.6, 1) ** 0.5
        height, width = (round(share * side) for side in whole)
        y, x = (
            int(chance.integers(side - part + 1))
            for side, part in zip(whole, (height, width), strict=True)
        )
        size = (LONG, SHORT) if height > width else (SHORT, LONG)
        file = folder / path.parent.name / f"{place:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.resize(pixels[y : y + height, x : x + width], size)).save(
            file, quality=90
        )
    return folder


def start_weights(folder: Path, file: Path) -> Path:
    """Random weights whose batch normalisation has seen some of the photographs: else their answers
    overflow.
    """
    if file.is_file():
        return file
    torch.manual_seed(0)
    network = timm.create_model("resnet18")
    seen = np.stack(
        [
            images.read_image(path, 224)[0][:224, :224]
            for path in sorted(folder.rglob("*.jpg"))[:FEW]
        ]
    )
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
    with torch.no_grad():
        for batch in torch.from_numpy(seen).permute(0, 3, 1, 2).split(64):
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
    """Where everything lies, and each of the ways."""

    def __init__(self, options: Any) -> None:
        self.options, self.rows, self.threads = (
            options,
            Rows(options.out / "peers.jsonl"),
            options.threads,
        )
        source = options.data / "clothing" / "train"
        self.photos, self.few = (
            photographs(source, options.out / f"photos-{n}", n) for n in (PHOTOS, FEW)
        )
        self.weights = start_weights(self.photos, options.out / "resnet18.safetensors")

    def full(self, repeat: int) -> None:
        for way in LOOPS:
            epochs = TEXTBOOK_EPOCHS if way == "textbook" and not repeat else 2
            if not self.known("full", way, repeat) and (found := self.loop(way, epochs)):
                self.add(
                    "full",
                    way,
                    repeat,
                    **per_image(found["epochs"][1:], FEW),
                    versions=found["versions"],
                )
        if not self.known("full", "foveate", repeat):
            found = self.staged("full", *LIKE_WHOLE)
            versions = {name: version(name) for name in ("torch", "timm")}
            second = found["epochs"][1]
            self.add(
                "full",
                "foveate",
                repeat,
                **per_image([second], PHOTOS),
                stages=second["stages"],
                versions=versions,
            )

    def probe(self, repeat: int) -> None:
        if self.known("probe", "foveate", repeat):
            return
        own, pooled = (
            self.fit(self.photos, "probe"),
            self.fit(self.photos, "probe", "task.features=pooled"),
        )
        full, frozen = self.loop("textbook", 2), self.loop("textbook", 2, "--head")
        assert full is not None
        assert frozen is not None
        row: dict[str, Any] = {name: own[name] for name in ("seconds", "processor")}
        row |= {f"pooled_{name}": pooled[name] for name in ("seconds", "processor")}
        for name, found in (("full", full), ("frozen", frozen)):
            for clock in ("seconds", "processor"):
                row[f"{name}_{clock}"] = EPOCHS * PHOTOS / FEW * found["epochs"][1][clock]
        self.add("probe", "foveate", repeat, **row)

    def whole(self, repeat: int) -> None:
        if not self.known("whole", "foveate", 0):
            self.add("whole", "foveate", 0, **self.fit(self.photos, "full"))

    def stages(self, repeat: int) -> None:
        if not self.known("stages", "textbook", 0) and (found := self.loop("textbook", 2)):
            self.add("stages", "textbook", 0, images=FEW, epochs=[found["stages"]])
        for tuning, settings in (("full", LIKE_WHOLE), ("probe", [])):
            if not self.known("stages", tuning, 0):
                self.add("stages", tuning, 0, **self.staged(tuning, *settings))

    def start(self, repeat: int) -> None:
        if self.known("start", "foveate", repeat):
            return
        run = self.options.out / "start-run"
        if not (run / "finished.json").is_file():
            how = {
                "backbone": "resnet18",
                "weights": str(self.weights),
                "settings": {"data.val": 0, "data.test": 0},
            }
            foveate.fit(self.few, tuning="probe", device="cpu", out=run, **how)
        picture, row = next(iter(find_images(self.few))), dict[str, float]()
        predict = [*PROGRAM, "predict", str(run), str(picture), "--device", "cpu"]
        for name, said in (
            ("predict", predict),
            ("imports", ["-c", "import torch, timm; print(0)"]),
        ):
            before = spent()
            row[f"{name}_seconds"] = python(said, self.threads)[1]
            row[f"{name}_processor"] = spent() - before
        self.add("start", "foveate", repeat, **row)

    # --- the processes

    def loop(self, way: str, epochs: int, *said: str) -> dict[str, Any] | None:
        """What bench/loops.py says; None where the library is not there."""
        own = self.options.fastai if way == "fastai" and self.options.fastai else sys.executable
        asked = [
            str(self.few),
            str(self.weights),
            "--threads",
            str(self.threads),
            "--epochs",
            str(epochs),
            *said,
        ]
        limits = {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        command = [own, str(HERE / "loops.py"), way, *asked]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **limits})
        if done.returncode:
            print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
            return None
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))

    def staged(self, tuning: str, *settings: str) -> dict[str, Any]:
        """What bench/stages.py says of a fit of two epochs, with an empty cache."""
        said = [
            str(HERE / "stages.py"),
            str(self.photos),
            str(self.weights),
            tuning,
            "--threads",
            str(self.threads),
        ]
        with tempfile.TemporaryDirectory() as cache:
            said += ["--epochs", "2", "--set", *settings]
            return dict(json.loads(python(said, self.threads, FOVEATE_CACHE=cache)[0]))

    def fit(self, photos: Path, tuning: str, *settings: str) -> dict[str, Any]:
        """A whole process; its seconds by the clock and of the processor, what it chose, and how it
        ended.
        """
        said = [
            "fit",
            str(photos),
            "--tuning",
            tuning,
            "--backbone",
            "resnet18",
            "--weights",
            str(self.weights),
            "--device",
            "cpu",
        ]
        said += ["--epochs", str(EPOCHS), "--json"]
        said += [
            word
            for setting in ("data.val=0", "data.test=0", *settings)
            for word in ("--set", setting)
        ]
        with tempfile.TemporaryDirectory() as folder:
            before, run = spent(), Path(folder) / "run"
            _, seconds = python(
                [*PROGRAM, *said, "--out", str(run)],
                self.threads,
                FOVEATE_CACHE=str(Path(folder) / "cache"),
            )
            processor, log = spent() - before, run / "metrics.jsonl"
            ends = (
                [json.loads(line)["seconds"] for line in log.read_text().splitlines()]
                if log.is_file()
                else []
            )
            chosen = {
                row["field"]: row["value"] for row in json.loads((run / "choices.json").read_text())
            }
        return {"seconds": seconds, "processor": processor, "epochs_end": ends, "chosen": chosen}

    def known(self, what: str, way: str, repeat: int) -> bool:
        return self.rows.has(what=what, way=way, repeat=repeat, threads=self.threads)

    def add(self, what: str, way: str, repeat: int, **found: Any) -> None:
        self.rows.add(
            {"what": what, "way": way, "threads": self.threads, "repeat": repeat, **found}
        )


def per_image(epochs: list[dict[str, float]], count: int) -> dict[str, Any]:
    """Milliseconds an image, of the processor and by the clock; each epoch's beside their mean."""
    each = {
        clock: [1000 * epoch[clock] / count for epoch in epochs]
        for clock in ("seconds", "processor")
    }
    return {
        "ms": statistics.mean(each["seconds"]),
        "ms_processor": statistics.mean(each["processor"]),
        "each": each,
    }


def summary(rows: list[dict[str, Any]], threads: int) -> str:
    """What docs/benchmarks holds: ratios turn by turn, by the clock; medians, with the least and
    the greatest.
    """
    by = {
        what: [row for row in rows if row["threads"] == threads and row["what"] == what]
        for what in ("full", "probe", "start")
    }
    own = {row["repeat"]: row for row in by["full"] if row["way"] == "foveate"}
    lines = [f"| loop, {threads} threads | ms an image | times |", "|---|---|---|"]
    for way in dict.fromkeys(row["way"] for row in by["full"]):
        found = [row for row in by["full"] if row["way"] == way and row["repeat"] in own]
        told = told_of([row["ms"] / own[row["repeat"]]["ms"] for row in found])
        lines.append(f"| {way} | {statistics.median(row['ms'] for row in found):.1f} | {told} |")
    lines += [
        "",
        "| times, by the clock | by itself | pooled | by itself, less imports | pooled, less "
        "imports |",
    ]
    lines += [
        "|---|---|---|---|---|",
        *(probes(by["probe"], by["start"], over) for over in ("full", "frozen")),
    ]
    start = [row["predict_seconds"] / row["imports_seconds"] for row in by["start"]]
    lines += ["", f"start: {told_of(start)}"]
    shares = [outside(row["stages"]) for row in own.values() if "stages" in row]
    return "\n".join(
        [
            *lines,
            f"outside of the model: {told_of([100 * share for share in shares])} % of the "
            f"processor's time",
        ]
    )


def probes(rows: list[dict[str, Any]], starts: list[dict[str, Any]], over: str) -> str:
    """A row of the table: twenty epochs of the textbook over a probe's seconds, with the imports
    and without.
    """
    imports, cells = {row["repeat"]: row["imports_seconds"] for row in starts}, []
    for less in (dict.fromkeys(imports, 0.0), imports):
        for own in ("seconds", "pooled_seconds"):
            known = [row for row in rows if row["repeat"] in less]
            cells.append(
                told_of(
                    [row[f"{over}_seconds"] / (row[own] - less[row["repeat"]]) for row in known]
                )
            )
    return f"| textbook, {over} | {' | '.join(cells)} |"


def told_of(found: list[float]) -> str:
    if not found:
        return "not measured"
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def outside(stages: dict[str, float]) -> float:
    """The share of an epoch that is no forward pass, backward pass or step of the optimiser."""
    return 1 - (stages["forward and backward"] + stages["step"]) / sum(stages.values())


def main() -> None:
    options = words(
        __doc__, [], ["full", "probe", "start", "stages", "whole"], threads=1, repeats=5, fastai=""
    )
    bench = Bench(options)
    known = {
        "full": bench.full,
        "probe": bench.probe,
        "start": bench.start,
        "stages": bench.stages,
        "whole": bench.whole,
    }
    torch.set_num_threads(options.threads)
    for repeat in range(options.repeats):
        for way in options.ways:
            known[way](repeat)
    print(summary(bench.rows.rows, options.threads))


if __name__ == "__main__":
    main()
