"""Whether maps can be believed: insertion less deletion against random orders, on photographs that
were classified correctly.

    python bench/explain.py --data DATA --out OUT [--sets clothing brain_mri] [--ways gradcam ...]
    [--seeds 0] [--count 100]

A probe of EfficientNet-Lite0 and, as `full:gradcam` and `full:hirescam`, all weights trained; so
many images of clothing's validation folder, or of the test part of brain_mri, drawn by the seed
among those that were answered correctly. Told are the share of images on which the map is better
than the mean of random orders, and on which it is so by two deviations.

Rows land in OUT/explain.jsonl, and a row that is there is not measured again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import foveate
from foveate.data.formats import read_table
from foveate.evaluation.intervals import wilson
from spine import Rows, sets, words

WAYS = ["gradcam", "hirescam", "layercam", "occlusion", "integrated_gradients"]


def main() -> None:
    options = words(
        __doc__,
        ["clothing", "brain_mri"],
        [*WAYS, "full:gradcam", "full:hirescam"],
        threads=1,
        count=100.0,
    )
    rows = Rows(options.out / "explain.jsonl")
    torch.set_num_threads(options.threads)
    known = sets(options.data, options.out)
    for name in options.sets:
        for seed in options.seeds:
            for tuning in ("probe", "full"):
                ways = [way for way in options.ways if ("full:" in way) == (tuning == "full")]
                open_ = [way for way in ways if not rows.has(set=name, seed=seed, way=way)]
                run, count = options.out / f"explain-{name}-{tuning}-{seed}", int(options.count)
                for row in measured(known[name], tuning, seed, count, open_, run) if open_ else []:
                    rows.add({"set": name, "seed": seed, "tuning": tuning, **row})
    print(summary(rows.rows))


def measured(
    parts: tuple[Path, Path], tuning: str, seed: int, count: int, ways: list[str], run: Path
) -> list[dict[str, Any]]:
    if not (run / "finished.json").is_file():
        settings = {"data.val": 0 if tuning == "probe" else 0.15, "data.test": 0}
        foveate.fit(
            parts[0],
            tuning=tuning,
            weights="offline",
            seed=seed,
            device="cpu",
            out=run,
            settings=settings,
        )
    samples = read_table(parts[1]).samples
    answers = foveate.predict(run, [sample.path for sample in samples], device="cpu")
    right = [
        sample.path
        for sample, answer in zip(samples, answers, strict=True)
        if answer.prediction.names == sample.target.names
    ]
    chosen = [
        right[place]
        for place in np.random.default_rng(seed).permutation(len(right))[:count].tolist()
    ]
    how = [way.removeprefix("full:") for way in ways]
    told = foveate.explain(run, chosen, methods=how, device="cpu", out=run / "why").explanations
    return [
        {"way": way, **of([each for each in told if each.method == name])}
        for way, name in zip(ways, how, strict=True)
    ]


def of(found: list[Any]) -> dict[str, Any]:
    above = sum(each.faithfulness.gain > 0 for each in found)
    means = {
        name: float(np.mean([getattr(each.faithfulness, name) for each in found]))
        for name in ("insertion", "deletion", "gain")
    }
    shares = {"above": above / len(found), "above_interval": list(wilson(above, len(found)))}
    sure = sum(each.faithfulness.better_than_random for each in found) / len(found)
    return {
        "count": len(found),
        **means,
        **shares,
        "better": sure,
        "same": float(np.mean([each.randomization_similarity for each in found])),
    }


def summary(rows: list[dict[str, Any]]) -> str:
    head = (
        "set | way | insertion | deletion | better than random | by two deviations | like random "
        "weights"
    )
    lines = [f"| {head} |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        low, high = row["above_interval"]
        shares = (
            f"{row['above']:.2f} [{low:.2f}, {high:.2f}] | {row['better']:.2f} | {row['same']:+.2f}"
        )
        lines.append(
            f"| {row['set']} | {row['way']} | {row['insertion']:.3f} | {row['deletion']:.3f} | "
            f"{shares} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
