"""audit RUN: likely label errors, redundant and hard images, and the value of more labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveate.api.audit.label_errors import (
    Forecast,
    LabelIssue,
    extrapolate_accuracy,
    find_label_issues,
    find_redundant,
    out_of_fold_probabilities,
    rank_by_margin,
    select_for_labeling,
)
from foveate.data.discovery import find_images_at
from foveate.data.formats import read_table
from foveate.data.image_cache import ImageCache
from foveate.data.scan import ScannedTable, drop_unreadable
from foveate.data.tables import label_names, require_single_label
from foveate.errors import UsageError
from foveate.images import codec as images
from foveate.images.sheets import image_grid
from foveate.inference.engine import collect_features, scan_with_progress
from foveate.inference.predictor import Predictor, load_predictor
from foveate.modeling.classifiers.logistic import out_of_fold
from foveate.run.lineage import read_run_table
from foveate.types import Sample
from foveate.utils import console
from foveate.utils.files import write_rows
from foveate.utils.paths import printable

_SHEET_IMAGES, _SHEET_SIZE = 40, 128  # images on the sheet, and px of each
_HARD = 50  # images listed as hardest
_REDUNDANT_COSINE = 0.98  # cosine similarity of features from which an image is redundant
_MIN_IMAGES = 20


@dataclass(frozen=True)
class AuditResult:
    """What the audit found.

    Attributes:
        folder: Holds fixes.csv, hardest.csv, redundant.csv, next.csv and doubts.png.
        count: Number of audited images.
        suspicious: Image, label and suggested label, most suspicious first.
        strong: How many of the first are strong suspicions.
        redundant: Number of images that are near-duplicates in feature space.
        forecast: Accuracy extrapolated to more labels.
        next: Unlabeled images to label next.
    """

    folder: Path
    count: int
    suspicious: list[tuple[str, str, str]]
    strong: int
    redundant: int
    forecast: Forecast
    next: list[str]

    def numbers(self) -> dict[str, Any]:
        points = [{"images": count, **asdict(score)} for count, score in self.forecast.points]
        more = (
            {"images": self.forecast.extra, **asdict(self.forecast.score)}
            if self.forecast.score
            else None
        )
        doubted = [
            {"path": path, "label": label, "suggested": other}
            for path, label, other in self.suspicious
        ]
        counts = {"images": self.count, "strong": self.strong, "redundant": self.redundant}
        found = {"folder": str(self.folder), **counts, "doubted": doubted}
        return {**found, "forecast": {"points": points, "more": more}, "next": self.next}

    def lines(self) -> list[str]:
        first = f"{len(self.suspicious)} of {self.count} labels to review, "
        first += f"{self.strong} of them strongly suspicious"
        told = [f"{first}: {self.folder / 'fixes.csv'}, shown in doubts.png"]
        told += [
            f"  {path}: {label}, perhaps {other}" for path, label, other in self.suspicious[:5]
        ]
        told.append(
            f"{self.redundant} redundant images (redundant.csv); the hardest are in hardest.csv"
        )
        told += [
            f"accuracy with {count} images: {score.value:.3f}"
            for count, score in self.forecast.points
        ]
        if self.forecast.score is not None:
            score = self.forecast.score
            told.append(
                f"with {self.forecast.extra} more labels: {score.value:.3f} "
                f"[{score.low:.3f}, {score.high:.3f}] (extrapolated)"
            )
        else:
            told.append(
                "no forecast for more labels: too few images, or no power law fits these points"
            )
        told += [f"label next: {', '.join(self.next[:5])}, ... (next.csv)"] if self.next else []
        return [
            *told,
            "note: your files were not changed; many suspicious labels are right",
        ]


def scan_labeled(run: Path, data: Path | None, device: str) -> tuple[Predictor, ScannedTable]:
    """Open the run and scan its own images, or `data`. Raises UsageError for too few images."""
    predictor = load_predictor(run, device)
    table = require_single_label(
        read_run_table(predictor.run) if data is None else read_table(data), "an audit"
    )
    if len(table.samples) < _MIN_IMAGES:
        raise UsageError(
            f"{len(table.samples)} images are too few to say anything",
            where=table.root,
            hint="some dozens at least",
        )
    return predictor, scan_with_progress(table, predictor.model, predictor.recipe.data)


@dataclass(frozen=True)
class LabeledFeatures:
    """Features (N, D), class indices (N,) and groups of N images, and the K class names."""

    scanned: ScannedTable
    features: np.ndarray
    labels: np.ndarray
    groups: list[str]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, predictor: Predictor, scanned: ScannedTable) -> LabeledFeatures:
        """Compute the features of all images."""
        samples = scanned.table.samples
        features = pooled_features(predictor, samples, scanned.cache)
        classes = tuple(sorted({name for sample in samples for name in label_names(sample)}))
        labels = np.array([classes.index(label_names(sample)[0]) for sample in samples])
        groups = [sample.group or sample.key for sample in samples]
        return cls(scanned, features, labels, groups, classes)


def write_audit(
    folder: Path,
    predictor: Predictor,
    data: LabeledFeatures,
    unlabeled: Path | None,
    extra_labels: int,
) -> AuditResult:
    """Rate the labels, extrapolate the learning curve, and write the tables to `folder`."""
    features, labels, classes = data.features, data.labels, data.classes
    seed = predictor.recipe.seed
    chances, strength = out_of_fold_probabilities(features, labels, data.groups, len(classes), seed)
    found, pairs = find_label_issues(chances, labels), find_redundant(features, _REDUNDANT_COSINE)
    curve = extrapolate_accuracy(
        features, labels, data.groups, len(classes), strength, extra_labels, seed
    )
    folder.mkdir(parents=True)
    chosen = (
        choose_next(predictor, unlabeled, features, labels, len(classes), strength)
        if unlabeled
        else []
    )
    write_tables(folder, data.scanned, classes, labels, chances, found, pairs, chosen)
    keys = [sample.key for sample in data.scanned.table.samples]
    doubted = [
        (keys[each.index], classes[labels[each.index]], classes[each.suggested]) for each in found
    ]
    strong = sum(each.strong for each in found)
    return AuditResult(folder, len(keys), doubted, strong, len(pairs), curve, chosen)


def pooled_features(
    predictor: Predictor, samples: Sequence[Sample], pixels: ImageCache
) -> np.ndarray:
    """(N, D): what the head reads, where it says so, else the pooled ones."""
    read = getattr(predictor.model.head, "feature_vector", lambda found: found.pooled)
    with (
        console.progress(len(samples), "features") as bar,
        collect_features(predictor.model, read) as seen,
    ):
        predictor.predict_samples(samples, pixels, bar.advance)
    if not seen:
        raise UsageError(
            "this run reads no pooled features to compare images by", where=predictor.run.folder
        )
    return torch.cat(seen).numpy()


def choose_next(
    predictor: Predictor,
    folder: Path,
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    strength: float,
) -> list[str]:
    """The pictures without labels that are worth labelling, by a classifier on all that are
    labelled.
    """
    samples = [Sample(path, printable(path)) for path in find_images_at([folder])]
    pixels = ImageCache(
        predictor.model.backbone.input.size, predictor.model.task.framing, keep=True
    )
    readable_samples = drop_unreadable(samples, pixels)
    unlabeled_features = pooled_features(predictor, readable_samples, pixels)
    both = np.concatenate([features, unlabeled_features])
    targets = np.concatenate(
        [np.eye(classes)[labels], np.zeros((len(unlabeled_features), classes))]
    )
    fold = np.concatenate([np.zeros(len(features), int), np.ones(len(unlabeled_features), int)])
    probabilities = out_of_fold(both, targets, fold, strength, False)[fold == 1]
    return [
        readable_samples[each].key
        for each in select_for_labeling(
            probabilities, unlabeled_features, min(_HARD, len(readable_samples))
        )
    ]


def write_tables(
    folder: Path,
    scanned: ScannedTable,
    classes: tuple[str, ...],
    labels: np.ndarray,
    probabilities: np.ndarray,
    suspects: list[LabelIssue],
    pairs: list[tuple[int, int, float]],
    next_images: list[str],
) -> None:
    keys = [sample.key for sample in scanned.table.samples]
    own = probabilities[np.arange(len(labels)), labels]
    named = [
        (keys[each.index], classes[labels[each.index]], classes[each.suggested])
        for each in suspects
    ]
    told = [
        [
            f"{each.label_probability:.4f}",
            f"{each.suggested_probability:.4f}",
            "yes" if each.strong else "no",
        ]
        for each in suspects
    ]
    doubted = [[*names, *row] for names, row in zip(named, told, strict=True)]
    hardest = [
        [keys[place], classes[labels[place]], f"{own[place]:.4f}"]
        for place in rank_by_margin(probabilities, labels)[:_HARD].tolist()
    ]
    write_rows(
        folder / "fixes.csv",
        ["path", "label", "suggested", "chance_of_label", "chance_of_suggested", "strong"],
        doubted,
    )
    write_rows(folder / "hardest.csv", ["path", "label", "chance_of_label"], hardest)
    write_rows(
        folder / "redundant.csv",
        ["path", "like", "cosine"],
        [[keys[b], keys[a], f"{value:.4f}"] for a, b, value in pairs],
    )
    if next_images:
        write_rows(folder / "next.csv", ["path"], [[key] for key in next_images])
    if suspects:
        shown = [
            scanned.cache.read(scanned.table.samples[each.index].path)[0]
            for each in suspects[:_SHEET_IMAGES]
        ]
        small = [
            images.resize(np.ascontiguousarray(pixels), (_SHEET_SIZE, _SHEET_SIZE))
            for pixels in shown
        ]
        images.write_image(
            image_grid(small, [f"{row[1]} / {row[2]}?" for row in doubted[:_SHEET_IMAGES]]),
            folder / "doubts.png",
        )
