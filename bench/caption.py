"""Sentences about pictures against two easy answers: the most frequent sentence, and that of the
nearest training picture.

    python bench/caption.py --data DATA --out OUT [--sets nlvr emoji] [--seeds 0 1 2] [--ways
    report] [--threads 2]

nlvr: the true sentences of nlvr_dev, whose scenes are divided by scene, so that no scene is in two
parts. emoji: the names of the drawings of google, each drawing a name of its own. A quarter is the
test part, the same for all seeds; the seed divides the rest into training and validation and begins
the weights. Way `choose` fits every candidate of CANDIDATES with another seed and prints its CIDEr
on validation, and never sees the test part; CHOSEN is what it found. Way `report` fits CHOSEN and
answers the test part.

The easy answers know training and validation part alike. Of equally frequent sentences the one with
the best mean CIDEr against the others is taken; nearest is the cosine of the pretrained backbone's
pooled features.

Rows land in OUT/caption.jsonl, and a row that is there is not measured again.
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
from foveate.data.formats import read_table
from foveate.evaluation.intervals import paired_bootstrap
from foveate.evaluation.metrics.text import TextMetric, cider_scores, tokenize
from foveate.modeling.model import build_model
from foveate.predictions import Text
from foveate.recipe import Recipe, with_settings
from foveate.types import Sample, Table
from pretrain import features
from spine import Rows, words

BACKBONE = "tf_efficientnet_lite0"
TEST, CHOICE_SEED = 0.25, 100
NUMBERS = ("cider", "bleu_4", "bleu_1", "rouge_l", "chrf")
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
CHOSEN = {"nlvr": "full 224", "emoji": "head 160"}


def main() -> None:
    options = words(__doc__, list(CANDIDATES), ["report"], threads=2)
    rows = Rows(options.out / "caption.jsonl")
    torch.set_num_threads(options.threads)
    for name in options.sets:
        table = written(name, options.data, options.out)
        if "choose" in options.ways:
            choose(name, table, options.out, rows)
        for seed in options.seeds if "report" in options.ways else []:
            if not rows.has(set=name, seed=seed, way="report"):
                rows.add(report(name, table, seed, options.out / f"caption-{name}-{seed}"))
    print(summary(rows.rows))


# --- Data


def written(name: str, data: Path, out: Path) -> Path:
    """The table of paths, sentences, scenes and test parts."""
    rows = {"nlvr": scenes, "emoji": drawings}[name](data)
    groups = sorted({row["group"] for row in rows})
    chosen = np.random.default_rng(0).permutation(groups)[: round(TEST * len(groups))]
    test, table = set(chosen), out / f"caption-{name}.jsonl"
    lines = [
        json.dumps({**row, "split": "test" if row["group"] in test else "train"}) for row in rows
    ]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def scenes(data: Path) -> list[dict[str, str]]:
    folder = data / "nlvr_dev"
    known = json.loads((folder / "dev_subset.json").read_text(encoding="utf-8"))
    true = [row for row in known if str(row["label"]).lower() == "true"]
    paths = [str((folder / "images" / row["image"]).resolve()) for row in true]
    return [
        {"path": path, "text": row["sentence"], "group": row["identifier"].split("-")[0]}
        for path, row in zip(paths, true, strict=True)
    ]


def drawings(data: Path) -> list[dict[str, str]]:
    folder = data / "emoji"
    known = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    return [
        {
            "path": str((folder / "google" / row["image"]).resolve()),
            "text": row["name"].lower(),
            "group": row["name"],
        }
        for row in known
        if (folder / "google" / row["image"]).is_file()
    ]


# --- Ours


def fitted(name: str, table: Path, candidate: str, seed: int, run: Path, **settings: Any) -> Any:
    said = {
        "backbone": BACKBONE,
        "weights": "offline",
        "device": "cpu",
        "seed": seed,
        **CANDIDATES[name][candidate],
    }
    return foveate.fit(table, task="caption", out=run, settings=settings, **said)


def choose(name: str, table: Path, out: Path, rows: Rows) -> None:
    """The best score on validation of each candidate; the test part is left out of the table."""
    lines = [
        line
        for line in table.read_text(encoding="utf-8").splitlines()
        if json.loads(line)["split"] == "train"
    ]
    inside = out / f"caption-{name}-inside.jsonl"
    cut = [
        {key: value for key, value in json.loads(line).items() if key != "split"} for line in lines
    ]
    inside.write_text("\n".join(map(json.dumps, cut)) + "\n", encoding="utf-8")
    for candidate in CANDIDATES[name]:
        if not rows.has(set=name, way="choose", candidate=candidate):
            run = out / f"caption-{name}-{candidate.replace(' ', '-')}"
            told = fitted(name, inside, candidate, CHOICE_SEED, run, **{"data.test": 0}).numbers()
            about = {"way": "choose", "set": name, "candidate": candidate}
            rows.add(
                {
                    **about,
                    **{
                        word: told[word]
                        for word in ("cider", "bleu_4", "low", "high", "count", "epochs", "seconds")
                    },
                }
            )


# --- Against the easy answers


@dataclass(frozen=True)
class Parts:
    known: list[Sample]
    asked: list[Sample]

    @property
    def sentences(self) -> list[str]:
        return [sample.target.sentences[0] for sample in self.known]


def report(name: str, table: Path, seed: int, run: Path) -> dict[str, Any]:
    found = fitted(name, table, CHOSEN[name], seed, run)
    read = read_table(table)
    parts = Parts(
        *(
            [sample for sample in read.samples if (sample.split == "test") == test]
            for test in (False, True)
        )
    )
    answers = {
        "ours": [
            answer.prediction
            for answer in foveate.predict(run, [sample.path for sample in parts.asked])
        ],
        "frequent": [Text((most_frequent(parts.sentences),))] * len(parts.asked),
        "nearest": [
            Text((parts.sentences[place],))
            for place in nearest(read, parts, CANDIDATES[name][CHOSEN[name]]["size"])
        ],
    }
    row: dict[str, Any] = {
        "way": "report",
        "set": name,
        "seed": seed,
        "chosen": CHOSEN[name],
        "seconds": found.outcome["seconds"],
    }
    row |= {
        "count": len(parts.asked),
        "different": len({answer.sentences[0] for answer in answers["ours"]}),
    }
    own = {word: each(said, parts.asked) for word, said in answers.items()}
    for word, said in answers.items():
        scores = scored(said, parts.asked)
        row |= {f"{word}_{number}": scores[number] for number in NUMBERS}
    for word in ("frequent", "nearest"):
        row[f"gain_{word}"] = list(paired_bootstrap(own["ours"], own[word]))
    return row


def most_frequent(sentences: list[str]) -> str:
    """Of those that are equally frequent, the one with the best mean CIDEr against all others."""
    plain = [" ".join(tokenize(sentence)) for sentence in sentences]
    counted = Counter(plain)
    best = [sentence for sentence, count in counted.items() if count == max(counted.values())]
    split = [sentence.split() for sentence in plain]
    means = [
        cider_scores([sentence.split()] * len(split), [[words] for words in split]).mean()
        for sentence in best
    ]
    return best[int(np.argmax(means))]


def nearest(read: Table, parts: Parts, size: int) -> list[int]:
    """The place of each asked picture's nearest known picture."""
    settings = {
        "backbone": {"name": BACKBONE, "weights": "offline", "size": size},
        "task": "caption",
        "tuning": "head",
    }
    listed = [sample.target.sentences[0] for sample in read.samples]
    model = build_model(with_settings(Recipe(), {**settings, "task.vocabulary": listed[:1]}), ())
    known, asked = (features(model, samples, "whole") for samples in (parts.known, parts.asked))
    middle = known.mean(0)
    known, asked = (torch.nn.functional.normalize(part - middle, dim=1) for part in (known, asked))
    return (asked @ known.T).argmax(1).tolist()


def each(answers: list[Text], asked: list[Sample]) -> np.ndarray:
    """CIDEr of every picture."""
    truths = [[tokenize(sentence) for sentence in sample.target.sentences] for sample in asked]
    return cider_scores([tokenize(answer.sentences[0]) for answer in answers], truths)


def scored(answers: list[Text], asked: list[Sample]) -> dict[str, float]:
    metric = TextMetric()
    for answer, sample in zip(answers, asked, strict=True):
        metric.update(answer, sample.target)
    found = metric.compute().numbers
    return {number: found[number].value for number in NUMBERS}


def summary(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| set | answers | CIDEr | by seed | BLEU-4 | by seed | ROUGE-L |",
        "|---|---|---|---|---|---|---|",
    ]
    reported = [row for row in rows if row["way"] == "report"]
    for name, word in product(
        dict.fromkeys(row["set"] for row in reported), ("ours", "nearest", "frequent")
    ):
        own = sorted((row for row in reported if row["set"] == name), key=lambda row: row["seed"])
        cells = [name, word]
        for number in ("cider", "bleu_4"):
            values = [row[f"{word}_{number}"] for row in own]
            cells += [
                f"{statistics.mean(values):.3f}",
                ", ".join(f"{value:.3f}" for value in values),
            ]
        lines.append(
            f"| {' | '.join(cells)} | {statistics.mean(row[f'{word}_rouge_l'] for row in own):.3f} "
            f"|"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
