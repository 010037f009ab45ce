"""Captions against two simple baselines: the most frequent one, and that of the nearest image.

    python bench/caption.py --data DATA --out OUT [--datasets nlvr emoji] [--cases select report]
        [--seeds 0 1 2] [--threads 2]

nlvr: the true sentences of nlvr_dev, split by scene, so that no scene is in two splits. emoji: the
names of Google's drawings; each drawing has a name of its own. A quarter is the test split, the
same for all seeds; the seed divides the rest into training and validation images and initializes
the weights.

select  Fits every candidate of CANDIDATES with another seed, and prints its CIDEr on validation
        images. It never sees the test split. SELECTED is its outcome.
report  Fits SELECTED, and scores the test split.

The baselines use training and validation images alike. Among equally frequent captions the one with
the best mean CIDEr against the others is taken; the nearest image is that of the highest cosine
similarity of the pretrained backbone's pooled features.

Rows are appended to OUT/caption.jsonl; those already there are not measured again. Prints the
table of docs/benchmarks/captions.md.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import foveate
from common import ResultFile, parse_options
from foveate.data.formats import read_table
from foveate.evaluation.intervals import paired_mean_difference
from foveate.evaluation.metrics.text import TextMetric, cider_scores, tokenize
from foveate.modeling.model import build_model
from foveate.predictions import Text
from foveate.recipe import Recipe, with_settings
from foveate.types import Sample, Table
from pretrain import features

BACKBONE = "tf_efficientnet_lite0"
TEST_SHARE, SELECTION_SEED = 0.25, 100
METRICS = ("cider", "bleu_4", "bleu_1", "rouge_l", "chrf")
FULL: dict[str, Any] = {"tuning": "full", "lr": 5e-4}
CANDIDATES: dict[str, dict[str, dict[str, Any]]] = {
    "nlvr": {
        "head 224": {"tuning": "head", "size": 224, "epochs": 40},
        "full 224": {**FULL, "size": 224, "epochs": 40},
        "full 320": {**FULL, "size": 320, "epochs": 40},
    },
    "emoji": {
        "head 96": {"tuning": "head", "size": 96, "epochs": 40},
        "full 96": {**FULL, "size": 96, "epochs": 30},
        "head 160": {"tuning": "head", "size": 160, "epochs": 40},
    },
}
SELECTED = {"nlvr": "full 224", "emoji": "head 160"}


def main() -> None:
    options = parse_options(__doc__, list(CANDIDATES), ["report"], threads=2)
    results = ResultFile(options.out / "caption.jsonl")
    torch.set_num_threads(options.threads)
    for name in options.datasets:
        table = write_table(name, options.data, options.out)
        if "select" in options.cases:
            select(name, table, options.out, results)
        for seed in options.seeds if "report" in options.cases else []:
            if not results.has(dataset=name, seed=seed, case="report"):
                results.add(report(name, table, seed, options.out / f"caption-{name}-{seed}"))
    print(summary(results.rows))


# --- data


def write_table(name: str, data: Path, out: Path) -> Path:
    """Write the table of paths, captions, groups and splits."""
    rows = {"nlvr": nlvr_rows, "emoji": emoji_rows}[name](data)
    groups = sorted({row["group"] for row in rows})
    drawn = np.random.default_rng(0).permutation(groups)[: round(TEST_SHARE * len(groups))]
    test, table = set(drawn), out / f"caption-{name}.jsonl"
    lines = [
        json.dumps({**row, "split": "test" if row["group"] in test else "train"}) for row in rows
    ]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def nlvr_rows(data: Path) -> list[dict[str, str]]:
    """Return path, sentence and scene of every true sentence."""
    folder = data / "nlvr_dev"
    listed = json.loads((folder / "dev_subset.json").read_text(encoding="utf-8"))
    true = [row for row in listed if str(row["label"]).lower() == "true"]
    paths = [str((folder / "images" / row["image"]).resolve()) for row in true]
    return [
        {"path": path, "text": row["sentence"], "group": row["identifier"].split("-")[0]}
        for path, row in zip(paths, true, strict=True)
    ]


def emoji_rows(data: Path) -> list[dict[str, str]]:
    """Return path and name of every drawing."""
    folder = data / "emoji"
    listed = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    return [
        {
            "path": str((folder / "google" / row["image"]).resolve()),
            "text": row["name"].lower(),
            "group": row["name"],
        }
        for row in listed
        if (folder / "google" / row["image"]).is_file()
    ]


# --- fits


def fit(name: str, table: Path, candidate: str, seed: int, run: Path, **settings: Any) -> Any:
    options = {
        "backbone": BACKBONE,
        "weights": "offline",
        "device": "cpu",
        "seed": seed,
        **CANDIDATES[name][candidate],
    }
    return foveate.fit(table, task="caption", out=run, settings=settings, **options)


def select(name: str, table: Path, out: Path, results: ResultFile) -> None:
    """Add the validation scores of each candidate; the test split is left out of the table."""
    lines = [
        line
        for line in table.read_text(encoding="utf-8").splitlines()
        if json.loads(line)["split"] == "train"
    ]
    selection = out / f"caption-{name}-selection.jsonl"
    rows = [
        {key: value for key, value in json.loads(line).items() if key != "split"} for line in lines
    ]
    selection.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    for candidate in CANDIDATES[name]:
        if not results.has(dataset=name, case="select", candidate=candidate):
            run = out / f"caption-{name}-{candidate.replace(' ', '-')}"
            numbers = fit(
                name, selection, candidate, SELECTION_SEED, run, **{"data.test": 0}
            ).numbers()
            key = {"case": "select", "dataset": name, "candidate": candidate}
            results.add(
                {
                    **key,
                    **{
                        metric: numbers[metric]
                        for metric in (
                            "cider",
                            "bleu_4",
                            "low",
                            "high",
                            "count",
                            "epochs",
                            "seconds",
                        )
                    },
                }
            )


# --- comparison with the baselines


@dataclass(frozen=True)
class Parts:
    """Samples of the test split, and of training and validation together."""

    train_val: list[Sample]
    test: list[Sample]

    @property
    def captions(self) -> list[str]:
        return [sample.target.sentences[0] for sample in self.train_val]


def report(name: str, table: Path, seed: int, run: Path) -> dict[str, Any]:
    fitted = fit(name, table, SELECTED[name], seed, run)
    content = read_table(table)
    parts = Parts(
        *(
            [sample for sample in content.samples if (sample.split == "test") == test]
            for test in (False, True)
        )
    )
    predictions = {
        "foveate": [
            result.prediction
            for result in foveate.predict(run, [sample.path for sample in parts.test])
        ],
        "frequent": [Text((most_frequent(parts.captions),))] * len(parts.test),
        "nearest": [
            Text((parts.captions[index],))
            for index in nearest(content, parts, CANDIDATES[name][SELECTED[name]]["size"])
        ],
    }
    row: dict[str, Any] = {
        "case": "report",
        "dataset": name,
        "seed": seed,
        "candidate": SELECTED[name],
        "seconds": fitted.outcome["seconds"],
    }
    row |= {
        "count": len(parts.test),
        "distinct": len({caption.sentences[0] for caption in predictions["foveate"]}),
    }
    cider = {source: cider_by_image(texts, parts.test) for source, texts in predictions.items()}
    for source, texts in predictions.items():
        scores = score(texts, parts.test)
        row |= {f"{source}_{metric}": scores[metric] for metric in METRICS}
    for source in ("frequent", "nearest"):
        row[f"gain_{source}"] = list(paired_mean_difference(cider["foveate"], cider[source]))
    return row


def most_frequent(captions: list[str]) -> str:
    """Return the most frequent caption; of several the one with the best mean CIDEr to all."""
    normalized = [" ".join(tokenize(caption)) for caption in captions]
    counts = Counter(normalized)
    best = [caption for caption, count in counts.items() if count == max(counts.values())]
    split = [caption.split() for caption in normalized]
    means = [
        cider_scores([caption.split()] * len(split), [[tokens] for tokens in split]).mean()
        for caption in best
    ]
    return best[int(np.argmax(means))]


def nearest(table: Table, parts: Parts, size: int) -> list[int]:
    """Return the index of the nearest training or validation image of each test image."""
    settings = {
        "backbone": {"name": BACKBONE, "weights": "offline", "size": size},
        "task": "caption",
        "tuning": "head",
    }
    vocabulary = [sample.target.sentences[0] for sample in table.samples]
    model = build_model(
        with_settings(Recipe(), {**settings, "task.vocabulary": vocabulary[:1]}), ()
    )
    candidates, test = (
        features(model, samples, "whole") for samples in (parts.train_val, parts.test)
    )
    center = candidates.mean(0)
    candidates, test = (
        torch.nn.functional.normalize(part - center, dim=1) for part in (candidates, test)
    )
    return (test @ candidates.T).argmax(1).tolist()


def cider_by_image(captions: list[Text], test: list[Sample]) -> np.ndarray:
    """Return the CIDEr of each image's caption."""
    references = [[tokenize(sentence) for sentence in sample.target.sentences] for sample in test]
    return cider_scores([tokenize(caption.sentences[0]) for caption in captions], references)


def score(captions: list[Text], test: list[Sample]) -> dict[str, float]:
    metric = TextMetric()
    for caption, sample in zip(captions, test, strict=True):
        metric.update(caption, sample.target)
    numbers = metric.compute().numbers
    return {name: numbers[name].value for name in METRICS}


def summary(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table."""
    lines = [
        "| data set | captions | CIDEr | by seed | BLEU-4 | by seed | ROUGE-L |",
        "|---|---|---|---|---|---|---|",
    ]
    reported = [row for row in rows if row["case"] == "report"]
    for name, source in product(
        dict.fromkeys(row["dataset"] for row in reported), ("foveate", "nearest", "frequent")
    ):
        group = sorted(
            (row for row in reported if row["dataset"] == name), key=lambda row: row["seed"]
        )
        cells = [name, source]
        for metric in ("cider", "bleu_4"):
            values = [row[f"{source}_{metric}"] for row in group]
            cells += [
                f"{statistics.mean(values):.3f}",
                ", ".join(f"{value:.3f}" for value in values),
            ]
        lines.append(
            f"| {' | '.join(cells)} | "
            f"{statistics.mean(row[f'{source}_rouge_l'] for row in group):.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
