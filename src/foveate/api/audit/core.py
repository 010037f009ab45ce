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
    are_learnable,
    extrapolate_accuracy,
    find_label_issues,
    find_redundant,
    out_of_fold_probabilities,
    rank_by_margin,
    select_for_labeling,
)
from foveate.api.audit.review import Suggestion, write_suggestions
from foveate.data.class_merging import merge_classes
from foveate.data.formats import read_table
from foveate.data.image_cache import ImageCache
from foveate.data.image_sources import find_samples_at
from foveate.data.scan import ScannedTable, drop_unreadable
from foveate.data.tables import label_names, require_single_label
from foveate.errors import UnknownName, UsageError
from foveate.images.codec import resize
from foveate.images.encoding import write_image
from foveate.images.pixels import as_rgb
from foveate.images.sheets import image_grid
from foveate.inference.engine import collect_features, scan_with_progress
from foveate.inference.predictor import Predictor, load_predictor
from foveate.messages import counted
from foveate.modeling.classifiers.logistic import out_of_fold
from foveate.run.lineage import read_run_table
from foveate.types import Sample
from foveate.utils import console
from foveate.utils.files import write_rows

_SHEET_IMAGES, _SHEET_SIZE = 40, 128  # images on the sheet, and px of each
_HARD = 50  # images listed as hardest
_REDUNDANT_COSINE = 0.98  # cosine similarity of features from which an image is redundant
_MIN_IMAGES = 20
TABLES = "csv"
_FORMATS = (TABLES, "labelstudio", "cvat", "labelme")


def check_format(format: str) -> None:
    """Raise UnknownName if an audit cannot be written in a format."""
    if format not in _FORMATS:
        raise UnknownName(format, _FORMATS, kind="format of audits", where="--format")


@dataclass(frozen=True)
class AuditResult:
    """What the audit found.

    Attributes:
        folder: Holds label_issues.csv and .png, hardest.csv, redundant.csv and next.csv.
        count: Number of audited images.
        label_issues: Image, label and suggested label, most suspicious first.
        strong: How many of the first are strong suspicions.
        redundant: Number of images that are near-duplicates in feature space.
        forecast: Accuracy extrapolated to more labels.
        next: Unlabeled images to label next.
        learnable: Whether the labels can be told from the images at all; if not, none is listed.
    """

    folder: Path
    count: int
    label_issues: list[tuple[str, str, str]]
    strong: int
    redundant: int
    forecast: Forecast
    next: list[str]
    learnable: bool = True

    def numbers(self) -> dict[str, Any]:
        points = [{"images": count, **asdict(score)} for count, score in self.forecast.points]
        score = self.forecast.score
        extrapolated = {"images": self.forecast.extra, **asdict(score)} if score else None
        return {
            "folder": str(self.folder),
            "images": self.count,
            "learnable": self.learnable,
            "strong": self.strong,
            "redundant": self.redundant,
            "label_issues": [
                {"path": path, "label": label, "suggested": suggested}
                for path, label, suggested in self.label_issues
            ],
            "forecast": {"points": points, "extrapolated": extrapolated},
            "next": self.next,
        }

    def _label_lines(self) -> list[str]:
        if not self.learnable:
            return [
                f"the {counted(self.count, 'label', 'labels')} cannot be told from the images "
                "better than by guessing: none is called suspicious; do the labels belong to these "
                "images, and can they be seen in them?"
            ]
        return [
            f"{len(self.label_issues)} of {counted(self.count, 'label', 'labels')} to review, "
            f"{self.strong} of them strongly suspicious: "
            f"{self.folder / 'label_issues.csv'} and label_issues.png",
            *(
                f"  {path}: {label}, perhaps {suggested}"
                for path, label, suggested in self.label_issues[:5]
            ),
        ]

    def lines(self) -> list[str]:
        lines = self._label_lines()
        redundant = counted(self.redundant, "redundant image", "redundant images")
        lines.append(f"{redundant} (redundant.csv); the hardest are in hardest.csv")
        lines += [
            f"accuracy with {counted(count, 'image', 'images')}: {score.value:.3f}"
            for count, score in self.forecast.points
        ]
        if self.forecast.score is not None:
            score = self.forecast.score
            labels = counted(self.forecast.extra, "more label", "more labels")
            lines.append(f"with {labels}: {score.with_interval} (extrapolated)")
        else:
            lines.append(
                "no forecast for more labels: too few images, or no power law fits these points"
            )
        lines += [f"label next: {', '.join(self.next[:5])}, ... (next.csv)"] if self.next else []
        return [
            *lines,
            "note: your files were not changed; many suspicious labels are right",
        ]


def scan_labeled(
    run: Path, data: Path | None, device: str, allow_outside: bool
) -> tuple[Predictor, ScannedTable]:
    """Open the run and scan its own images, or `data`. Raises UsageError for too few images."""
    predictor = load_predictor(run, device)
    if data is None:
        table = read_run_table(predictor.run)
    else:
        recipe = predictor.recipe.data
        table = read_table(data, allow_outside=allow_outside or recipe.allow_outside)
        table = merge_classes(table, recipe.classes, other=True)
    table = require_single_label(table, "an audit")
    if len(table.samples) < _MIN_IMAGES:
        raise UsageError(
            f"{counted(len(table.samples), 'image is', 'images are')} too few for an audit",
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
    format: str = TABLES,
) -> AuditResult:
    """Rate the labels, extrapolate the learning curve, and write the tables to `folder`.

    Args:
        folder: Folder to create.
        predictor: The run.
        data: Features and labels of the audited images.
        unlabeled: Unlabeled images to rank, if any.
        extra_labels: Number of extra labels to extrapolate the learning curve to.
        format: "csv", or an annotation tool whose files are written as well.
    """
    features, labels, classes = data.features, data.labels, data.classes
    seed = predictor.recipe.seed
    probabilities, strength = out_of_fold_probabilities(
        features, labels, data.groups, len(classes), seed
    )
    learnable = are_learnable(probabilities, labels)
    issues = find_label_issues(probabilities, labels) if learnable else []
    pairs = find_redundant(features, _REDUNDANT_COSINE)
    curve = extrapolate_accuracy(
        features, labels, data.groups, len(classes), strength, extra_labels, seed
    )
    folder.mkdir(parents=True)
    next_images = (
        choose_next(predictor, unlabeled, features, labels, len(classes), strength)
        if unlabeled
        else []
    )
    next_keys = [suggestion.sample.key for suggestion in next_images]
    write_tables(folder, data.scanned, classes, labels, probabilities, issues, pairs, next_keys)
    samples = data.scanned.table.samples
    keys = [sample.key for sample in samples]
    if format != TABLES:
        suspicious = [
            Suggestion(samples[i], probabilities[i], issue.suggested, classes[labels[i]])
            for issue in issues
            for i in [issue.index]
        ]
        for name, queue in (("review", suspicious), ("next", next_images)):
            write_suggestions(folder / name, format, predictor.name, classes, queue)
    return AuditResult(
        folder=folder,
        count=len(keys),
        label_issues=_named_issues(keys, classes, labels, issues),
        strong=sum(issue.strong for issue in issues),
        redundant=len(pairs),
        forecast=curve,
        next=next_keys,
        learnable=learnable,
    )


def _named_issues(
    keys: list[str], classes: tuple[str, ...], labels: np.ndarray, issues: list[LabelIssue]
) -> list[tuple[str, str, str]]:
    """Return image, label and suggested label of each issue."""
    return [
        (keys[issue.index], classes[labels[issue.index]], classes[issue.suggested])
        for issue in issues
    ]


def pooled_features(
    predictor: Predictor, samples: Sequence[Sample], pixels: ImageCache
) -> np.ndarray:
    """Return the input vectors of the head, (N, D); the pooled features if it has none."""
    read = getattr(predictor.model.head, "feature_vector", lambda features: features.pooled)
    with (
        console.progress(len(samples), "features") as bar,
        collect_features(predictor.model, read) as collected,
    ):
        predictor.predict_samples(samples, pixels, bar.advance)
    if not collected:
        raise UsageError(
            "this run computes no pooled features to compare images by", where=predictor.run.folder
        )
    return torch.cat(collected).numpy()


def choose_next(
    predictor: Predictor,
    folder: Path,
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    strength: float,
) -> list[Suggestion]:
    """Choose unlabeled images to label next, by a classifier fitted to all labeled ones.

    Args:
        predictor: The run.
        folder: The unlabeled images.
        features: (N, D) of the labeled images.
        labels: (N,) class indices.
        classes: Number of classes.
        strength: Inverse regularization strength C of the classifier.

    Returns:
        At most 50 images, most useful first.
    """
    samples = predictor.join_channels(find_samples_at([folder]))
    pixels = predictor.new_cache(keep=True)
    readable_samples = drop_unreadable(samples, pixels)
    unlabeled_features = pooled_features(predictor, readable_samples, pixels)
    both = np.concatenate([features, unlabeled_features])
    targets = np.concatenate(
        [np.eye(classes)[labels], np.zeros((len(unlabeled_features), classes))]
    )
    fold = np.concatenate([np.zeros(len(features), int), np.ones(len(unlabeled_features), int)])
    probabilities = out_of_fold(both, targets, fold, strength, False)[fold == 1]
    return [
        Suggestion(readable_samples[each], probabilities[each], int(probabilities[each].argmax()))
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
    issues: list[LabelIssue],
    pairs: list[tuple[int, int, float]],
    next_images: list[str],
) -> None:
    """Write the tables and the sheet of suspicious images to `folder`.

    Args:
        folder: Existing folder.
        scanned: The N audited images.
        classes: Names of the K classes.
        labels: (N,) class indices.
        probabilities: (N, K), out of fold.
        issues: Labels to review.
        pairs: Redundant images: indices of both, and their cosine.
        next_images: Keys of the images to label next.
    """
    keys = [sample.key for sample in scanned.table.samples]
    own = probabilities[np.arange(len(labels)), labels]
    named = _named_issues(keys, classes, labels, issues)
    write_rows(
        folder / "label_issues.csv",
        ["path", "label", "suggested", "label_probability", "suggested_probability", "strong"],
        [
            [
                *names,
                f"{issue.label_probability:.4f}",
                f"{issue.suggested_probability:.4f}",
                "yes" if issue.strong else "no",
            ]
            for names, issue in zip(named, issues, strict=True)
        ],
    )
    hardest = rank_by_margin(probabilities, labels)[:_HARD].tolist()
    write_rows(
        folder / "hardest.csv",
        ["path", "label", "label_probability"],
        [[keys[index], classes[labels[index]], f"{own[index]:.4f}"] for index in hardest],
    )
    write_rows(
        folder / "redundant.csv",
        ["path", "similar_to", "cosine"],
        [[keys[b], keys[a], f"{value:.4f}"] for a, b, value in pairs],
    )
    if next_images:
        write_rows(folder / "next.csv", ["path"], [[key] for key in next_images])
    if issues:
        titles = [f"{label} / {suggested}?" for _, label, suggested in named[:_SHEET_IMAGES]]
        indices = [issue.index for issue in issues[:_SHEET_IMAGES]]
        write_image(_sheet(scanned, indices, titles), folder / "label_issues.png")


def _sheet(scanned: ScannedTable, indices: list[int], titles: list[str]) -> np.ndarray:
    size = (_SHEET_SIZE, _SHEET_SIZE)
    images = [scanned.cache.read(scanned.table.samples[index].path)[0] for index in indices]
    return image_grid([resize(as_rgb(each), size) for each in images], titles)
