"""Images from elsewhere: what a run loses on them, and what adapting to them without a label wins
back.

    python bench/shift.py --data DATA --out OUT [--sets emoji brain_mri] [--ways probe full]
    [--seeds 0 1 2 3 4] [--threads 1]
                           [--size 96] [--epochs 6] [--validate 1]

emoji: the category of a glyph, taught in google's drawings and asked in twitter's. The names are
cut in five parts, a part a seed: those of one are asked, in both styles, the others taught; adapted
is to the twitter drawings of the taught names. The names that bench/small_clip.py keeps for
validation are always taught, and asked with --validate 1 alone, by which settings were chosen.
brain_mri: the quarter of bench/sets.py is asked, as it is and as another scanner might give it
(darker, blurred, noisy: made here, as the set names no scanner); adapted is to the taught images,
changed alike.

What is measured is `foveate fit`, `evaluate --shift` and `adapt` with their defaults, but for size
and the epochs of tunings that train. Rows land in OUT/shift.jsonl with a 1 for each image that was
answered rightly, and a row that is there is not measured again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

import foveate
from foveate.data.discovery import find_images
from foveate.evaluation.intervals import bootstraps
from foveate.images import codec as images
from foveate.training.test_time import TEST_TIME_METHODS
from small_clip import named, parted
from spine import Rows, sets, words

PARTS = 5
HOME, AWAY = "google", "twitter"
GAMMA, BLUR, NOISE = 1.6, 1.5, 8.0  # exponent, px, of 255


@dataclass(frozen=True)
class Case:
    """Tables for training and for testing in both domains, and unlabeled images to adapt to."""

    taught: Path
    home: Path
    away: Path
    unlabelled: list[Path]


def emoji(folder: Path, seed: int, validate: bool, into: Path) -> Case:
    known = named(folder)
    unseen, validation, rest = parted(sorted(known))
    asked = validation if validate else (unseen + rest)[seed % PARTS :: PARTS]
    taught = sorted(known.keys() - set(asked))

    def table(names: Iterable[str], style: str, word: str) -> Path:
        pairs = ((folder / style / known[name]["image"], known[name]["category"]) for name in names)
        return tabled(pairs, into / f"{word}.tsv")

    unlabelled = [folder / AWAY / known[name]["image"] for name in taught]
    return Case(
        table(taught, HOME, "taught"),
        table(asked, HOME, "home"),
        table(asked, AWAY, "away"),
        unlabelled,
    )


def tabled(pairs: Iterable[tuple[Path, str]], file: Path) -> Path:
    file.write_text(
        "\n".join(["path\tlabel", *(f"{path}\t{label}" for path, label in pairs)]), encoding="utf-8"
    )
    return file


def brain_mri(train: Path, test: Path, into: Path) -> Case:
    away = into / "other"
    for folder in (train, test):
        for number, path in enumerate(sorted(find_images(folder))):
            target = away / folder.name / path.parent.name / f"{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scanned_otherwise(images.read_image(path)[0], number)).save(target)
    return Case(train, test, away / test.name, sorted(find_images(away / train.name)))


def scanned_otherwise(pixels: np.ndarray, seed: int) -> np.ndarray:
    """(H, W, 3) uint8, darker, blurred and noisy."""
    soft = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(BLUR)), np.float64)
    noise = np.random.default_rng(seed).normal(0, NOISE, soft.shape[:2])[..., None]
    return np.clip(255 * (soft / 255) ** GAMMA + noise, 0, 255).astype(np.uint8)


def measured(case: Case, way: str, seed: int, size: int, epochs: int, into: Path) -> dict[str, str]:
    """'1001...' by what answered: home, away, and away after each adaptation."""
    said: dict[str, Any] = {
        "weights": "offline",
        "backbone": "tf_efficientnet_lite0",
        "device": "cpu",
        "seed": seed,
        "size": size,
    }
    settings: dict[str, Any] = {"data.test": 0, "training.epochs": epochs}
    run = foveate.fit(case.taught, out=into / "run", tuning=way, settings=settings, **said).run
    drop = foveate.evaluate(run, case.home, shift=case.away)
    found = {"home": hits(drop.folder), "away": hits(drop.shifted.folder)}  # type: ignore[union-attr]
    for how in TEST_TIME_METHODS.names():
        adapted = foveate.adapt(run, case.unlabelled, method=how, out=into / how).run
        found[how] = hits(foveate.evaluate(adapted, case.away).folder)
    return found


def hits(evaluation: Path) -> str:
    rows = map(
        json.loads, (evaluation / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    )
    return "".join(str(int(row["target"] == [row["prediction"]])) for row in rows)


def summary(rows: list[dict[str, Any]]) -> str:
    """The table of docs/benchmarks: accuracies over all images of all seeds, and the share of the
    drop that is won back.
    """
    lines = [
        "| set | way | images | home | away | drop | adapted by | away | won back | share of the "
        "drop |",
        "|---|" + "---|" * 9,
    ]
    for place, way, kind in dict.fromkeys((row["set"], row["way"], row["names"]) for row in rows):
        own = [row for row in rows if (row["set"], row["way"], row["names"]) == (place, way, kind)]
        right = {who: by_image([row["hits"][who] for row in own], place) for who in own[0]["hits"]}
        base = right["home"], right["away"]
        for how in (name for name in right if name not in ("home", "away")):
            home, away, drop, adapted, won, share = ratios(*base, right[how])
            first = (
                f"| {place}, {kind} | {way} | {len(base[0])} | {home[0]:.3f} | {away[0]:.3f} | "
                f"{spread(drop)}"
            )
            lines.append(f"{first} | {how} | {adapted[0]:.3f} | {spread(won)} | {spread(share)} |")
    return "\n".join(lines)


def by_image(hits: list[str], place: str) -> np.ndarray:
    """How often each image was answered rightly.

    The parts of emoji hold other images each, the seeds of brain_mri the same.
    """
    rows = [np.array(list(map(int, each)), dtype=np.float64) for each in hits]
    return np.concatenate(rows) if place == "emoji" else np.mean(rows, axis=0)


def spread(figure: tuple[float, float, float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*figure)


def ratios(
    home: np.ndarray, away: np.ndarray, adapted: np.ndarray
) -> list[tuple[float, float, float]]:
    """Each figure with its interval; images are drawn with all their answers, those at home and
    away being of the same things.
    """

    def figures(places: np.ndarray) -> np.ndarray:
        here, there, after = (float(each[places].mean()) for each in (home, away, adapted))
        drop, won = here - there, after - there
        return np.array([here, there, drop, after, won, won / drop if drop else np.nan])

    ends = bootstraps(figures, len(home), rounds=2000)
    return [
        (float(value), *pair)
        for value, pair in zip(figures(np.arange(len(home))), ends, strict=True)
    ]


def main() -> None:
    options = words(
        __doc__, ["emoji", "brain_mri"], ["probe", "full"], threads=1, size=96, epochs=6, validate=0
    )
    rows = Rows(options.out / "shift.jsonl")
    for name, way, seed in product(options.sets, options.ways, options.seeds):
        kind = "validation" if options.validate else "asked"
        key = {
            "set": name,
            "way": way,
            "seed": seed,
            "names": kind,
            "size": options.size,
            "epochs": options.epochs,
        }
        if rows.has(**key):
            continue
        with tempfile.TemporaryDirectory() as place:
            into = Path(place)
            if name == "emoji":
                case = emoji(options.data / "emoji", seed, bool(options.validate), into)
            else:
                case = brain_mri(*sets(options.data, options.out)["brain_mri"], into)
            rows.add({**key, "hits": measured(case, way, seed, options.size, options.epochs, into)})
    print(summary(rows.rows))


if __name__ == "__main__":
    main()
