"""adapt RUN IMAGES: a finished run, adapted to images from elsewhere that nobody has labelled, as a
run of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import entropy as entropies
from torch import Tensor

from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.scan import ScannedTable
from foveate.errors import UsageError
from foveate.inference.engine import compute_scores, scan_with_progress
from foveate.inference.predictor import Predictor, load_predictor
from foveate.modeling.weights import read_run_tensors
from foveate.predictions import Labels
from foveate.run.folder import ADAPTED_FILE, Run
from foveate.run.lineage import read_run_table
from foveate.training.test_time import TEST_TIME_METHODS, Feed, TestTimeMethod
from foveate.types import Batch, Sample, Score, Table
from foveate.utils import console
from foveate.utils.console import Bar
from foveate.utils.device import to_device
from foveate.utils.paths import printable

_FEW = 64  # images: below, their statistics say little


@dataclass(frozen=True)
class Answered:
    """What the network answers to the new images.

    `names`: of each, its classes; `entropy`: mean, in nats; empty and None where the task has no
    classes of whole images, or several an image. `home`: the main number on the run's own held-out
    images.
    """

    names: list[str]
    entropy: float | None
    home: Score | None


@dataclass(frozen=True)
class AdaptResult:
    """`run`: the new run folder; `how`: the adaptation; `images`: how many it adapted to,
    `skipped`: those that cannot be read; `before` and `after`: what was answered. `metric`: the
    name of the home number.
    """

    run: Path
    how: str
    images: int
    skipped: int
    before: Answered
    after: Answered
    metric: str
    seconds: float

    @property
    def columns(self) -> list[str]:
        return ["answer", "before", "after"]

    @property
    def rows(self) -> list[list[str]]:
        before, after = Counter(self.before.names), Counter(self.after.names)
        return [[name, str(before[name]), str(after[name])] for name in sorted(before | after)]

    @property
    def changed(self) -> int:
        """How many images are answered with another class than before."""
        return sum(
            one != other for one, other in zip(self.before.names, self.after.names, strict=True)
        )

    def numbers(self) -> dict[str, Any]:
        told = {
            "run": str(self.run),
            "how": self.how,
            "images": self.images,
            "skipped": self.skipped,
            "changed": self.changed,
        }
        for word, answered in (("before", self.before), ("after", self.after)):
            told[f"entropy_{word}"] = answered.entropy
            told[f"home_{word}"] = asdict(answered.home) if answered.home else None
        return {**told, "metric": self.metric, "seconds": round(self.seconds, 2)}

    def lines(self) -> list[str]:
        told = [f"run: {self.run}"]
        if self.before.names:
            told.append(f"{self.changed} of {self.images} answers changed")
        if self.before.entropy is not None:
            moved = f"from {self.before.entropy:.3f} to {self.after.entropy:.3f} nats"
            told[-1] += f", their entropy went {moved} (surer is not righter)"
        if self.before.home and self.after.home:
            told.append(
                f"on held-out images of the run: {self.metric} "
                f"{self.before.home.value:.3f} before, {self.after.home} after"
            )
        told += [f"note: {caution}" for caution in self.cautions()]
        return [
            *told,
            f"next: label some of these images and score them: foveate evaluate {self.run} LABELED",
        ]

    def cautions(self) -> list[str]:
        """What the adaptation cannot promise, in words."""
        found = []
        if self.images < _FEW:
            found.append(f"{self.images} images are few to adapt to: some hundreds are better")
        gone = sorted(set(self.before.names) - set(self.after.names))
        if gone:
            found.append(
                f"{len(gone)} classes are no longer predicted, such as {gone[0]!r}: "
                "the predictions may be collapsing"
            )
        return [
            *found,
            "no label was seen: nothing here can tell whether the answers have become better",
        ]


def create_adaptation(method: str, settings: dict[str, Any] | None) -> TestTimeMethod:
    """Create the adaptation that is called `method`, with its own settings."""
    return TEST_TIME_METHODS.create(method, settings or {})


def open_source(
    run: Path, adaptation: TestTimeMethod, method: str, device: str
) -> tuple[Run, Predictor]:
    """Open the run to adapt. Raises UsageError where it, or the method for it, does not suit."""
    first = Run.open(run)
    first.require_continuable()
    predictor = load_predictor(run, device)
    require_suitable(adaptation, method, predictor)
    return first, predictor


def scan_domains(
    first: Run, paths: Sequence[Path], predictor: Predictor, strict: bool
) -> tuple[ScannedTable, ScannedTable]:
    """Scan the images of the run and the new ones."""
    recipe = predictor.recipe.data.model_copy(update={"strict": strict})
    table = read_run_table(first)
    home = scan_with_progress(table, predictor.model, recipe)
    samples = tuple(Sample(path, printable(path)) for path in paths)
    new = Table(samples, table.classes, "unlabeled", paths[0].parent)
    return home, scan_with_progress(new, predictor.model, recipe)


def describe(
    adaptation: TestTimeMethod, method: str, first: Run, away: ScannedTable
) -> dict[str, Any]:
    """The content of adapted.json: how, from which run and to which images."""
    return {
        "how": method,
        "settings": adaptation.settings.model_dump(),
        "run": str(first.folder.resolve()),
        "images": len(away.hashes),
        "sha256": list(away.hashes),
    }


def require_suitable(adaptation: TestTimeMethod, method: str, predictor: Predictor) -> None:
    if adaptation.needs_classes and (
        predictor.model.task.prediction_type is not Labels or predictor.multilabel
    ):
        what = f"{method} wants a run that answers with one class an image"
        raise UsageError(what, where=predictor.run.folder, hint="--method adabn")


def predict_all(
    predictor: Predictor, away: ScannedTable, home: ScannedTable
) -> tuple[Answered, str]:
    """What the network answers as it is now, and the name of its main number."""
    found = predictor.predict_samples(away.table.samples, away.cache).predictions
    names = ["|".join(each.names) or "none" for each in found if isinstance(each, Labels)]
    chances = np.array([each.scores for each in found if isinstance(each, Labels)])
    entropy = (
        float(entropies(chances, axis=1).mean()) if names and not predictor.multilabel else None
    )
    kept = home.table.in_split("val") or home.table.in_split("test")
    if not kept:
        return Answered(names, entropy, None), ""
    scores = compute_scores(
        predictor.predict_samples(kept, home.cache).predictions,
        kept,
        predictor.model,
    )
    return Answered(names, entropy, scores.numbers[scores.main]), scores.main


def run_adaptation(
    adaptation: TestTimeMethod, predictor: Predictor, home: ScannedTable, away: ScannedTable
) -> dict[str, Tensor]:
    """Adapts the predictor's model; gives the tensors that are others now, by name."""
    model = predictor.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    taught = predictor.dataset(home.table.in_split("train"), home.cache)
    new = predictor.dataset(away.table.samples, away.cache)
    passes = adaptation.passes
    with console.progress(passes[0] * len(taught) + passes[1] * len(new), "adapt") as bar:
        adaptation.adapt(model, _feed(predictor, taught, bar), _feed(predictor, new, bar))
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not tensor.equal(before[name])
    }


def _feed(predictor: Predictor, pictures: ImageDataset, bar: Bar) -> Feed:
    recipe = predictor.recipe

    def batches(epoch: int) -> Iterator[Batch]:
        order = BatchSampler(
            len(pictures), recipe.training.batch_size, seed=recipe.seed, epoch=epoch
        )
        for batch in make_loader(pictures, order):
            yield to_device(batch, predictor.device, predictor.mode)
            bar.advance(len(batch))

    return batches


def write_run(new: Run, first: Run, moved: dict[str, Tensor], about: dict[str, Any]) -> None:
    """The run as it was, and beside it what has moved."""
    new.copy_metadata(first)
    new.write_json("adapted.json", about)
    new.write_tensors("model.safetensors", read_run_tensors(first.folder))
    new.write_tensors(ADAPTED_FILE, moved)
    new.write_text(
        "recipe.yaml", first.recipe().to_yaml()
    )  # without it a folder is no run: it comes when the rest is there
    new.finish(
        {key: value for key, value in first.outcome().items() if key not in ("checksums", "parts")}
    )
