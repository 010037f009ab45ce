"""retrieve DATA: image-text retrieval by a model that embeds both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from foveate.api.names import check_names
from foveate.data.discovery import find_images
from foveate.data.formats import read_table
from foveate.data.image_cache import ImageCache, rendering_of
from foveate.data.loading import even_slices
from foveate.data.scan import drop_unreadable
from foveate.errors import DataError, UsageError
from foveate.evaluation.intervals import Units
from foveate.evaluation.retrieval import (
    CUTOFFS,
    cosine_similarities,
    ranks,
    recall_at_cutoffs,
    relevance_matrix,
)
from foveate.images.pixels import AS_STORED
from foveate.inference.features import pooled_features
from foveate.inference.predictor import load_predictor
from foveate.messages import counted
from foveate.modeling.backbones import TextBackbone, family_of
from foveate.predictions import ImagePrediction, Text
from foveate.recipe import Recipe, recipe_from
from foveate.run.folder import Run
from foveate.types import Sample, Score
from foveate.utils import console
from foveate.utils.device import resolve_device
from foveate.utils.paths import printable

_DEFAULT_BACKBONE = "clip:ViT-B-32"
_TEXT_BATCH = 64
IMAGE_TO_TEXT, TEXT_TO_IMAGE = "image_to_text", "text_to_image"
_QUERIES = {IMAGE_TO_TEXT: ("image", "images"), TEXT_TO_IMAGE: ("caption", "captions")}


@dataclass(frozen=True)
class DirectionRecall:
    """Recall in one direction.

    Attributes:
        candidates: Number of captions or images to choose from.
        recall: Recall at 1, 5 and 10.
    """

    candidates: int
    recall: list[Score]

    def row(self) -> dict[str, Any]:
        pairs = zip(CUTOFFS, self.recall, strict=True)
        recall = {f"recall_{cutoff}": asdict(score) for cutoff, score in pairs}
        return {"candidates": self.candidates, **recall}


@dataclass(frozen=True)
class RetrieveResult:
    """Recall in both directions, or the images nearest to text queries.

    Attributes:
        backbone: Run folder, or backbone and origin of its weights.
        recall: By direction: image_to_text and text_to_image.
        nearest: For each query, images and their cosines, best first.
    """

    columns: ClassVar[list[str]] = [
        "queries",
        "candidates",
        *(f"recall@{cutoff}" for cutoff in CUTOFFS),
        "chance@1",
    ]
    backbone: str
    recall: dict[str, DirectionRecall] = field(default_factory=dict)
    nearest: dict[str, list[tuple[str, float]]] = field(default_factory=dict)

    @property
    def rows(self) -> list[list[str]]:
        return [
            [
                counted(each.recall[0].count, *_QUERIES[direction]),
                f"{each.candidates:,}",
                *(score.with_interval for score in each.recall),
                f"{1 / each.candidates:.3f}",
            ]
            for direction, each in self.recall.items()
        ]

    def numbers(self) -> dict[str, Any]:
        recall = {direction: each.row() for direction, each in self.recall.items()}
        nearest = {"nearest": self.nearest} if self.nearest else {}
        return {"backbone": self.backbone, **recall, **nearest}

    def lines(self) -> list[str]:
        brackets = "95 % intervals" if self.recall else "cosines"
        lines = [f"by {self.backbone}; {brackets} in brackets"]
        for query, images in self.nearest.items():
            lines.append(f"{query}: " + ", ".join(f"{key} ({cos:.3f})" for key, cos in images))
        return lines


@dataclass(frozen=True)
class Index:
    """Embedded images.

    Attributes:
        samples: I readable samples.
        images: (I, D) embeddings.
        backbone: Computes embeddings of images and text.
        name: Run folder, or backbone and origin of its weights.
    """

    samples: list[Sample]
    images: Tensor
    backbone: TextBackbone
    name: str


def retrieval_recipe(data: Path, run: Path | None, options: dict[str, Any]) -> Recipe:
    """Return the recipe. Raises UsageError if both a run and a backbone are given."""
    if run is not None and options.keys() & {"backbone", "weights", "size"}:
        raise UsageError("--run and --backbone are mutually exclusive", where=run)
    return recipe_from(data, {"backbone": _DEFAULT_BACKBONE, **options}, {})


def embed(recipe: Recipe, run: Path | None, captions: bool) -> Index:
    """Embed the images of the recipe.

    Args:
        recipe: Names data, backbone and device.
        run: Run whose encoders are used instead of the backbone of the recipe.
        captions: Whether the images must have captions.

    Raises:
        UsageError: The backbone does not embed text.
        DataError: There are no readable images, or they have no captions.
    """
    check_names(recipe)
    rendering = rendering_of(Run.open(run).recipe().data) if run else AS_STORED
    samples = _read_samples(Path(recipe.data.path), recipe, captions)
    backbone = _open_backbone(recipe, run).eval().to(resolve_device(recipe.device))
    cache = ImageCache(backbone.input.size, "crop", True, rendering)
    readable, images = _embed_images(backbone, samples, cache, recipe)
    name = str(run) if run else f"{recipe.backbone.name} ({backbone.origin})"
    return Index(readable, images, backbone, name)


def find_nearest(index: Index, queries: Sequence[str], top: int) -> RetrieveResult:
    """Find the `top` images nearest to each text query, by cosine."""
    similarities = cosine_similarities(index.images, _embed_text(index.backbone, queries)).T
    best = [row.topk(min(top, len(index.samples))) for row in similarities]
    nearest = [
        [(index.samples[row].key, float(value)) for value, row in zip(*each, strict=True)]
        for each in best
    ]
    return RetrieveResult(index.name, nearest=dict(zip(queries, nearest, strict=True)))


def measure_recall(index: Index) -> RetrieveResult:
    """Measure recall at 1, 5 and 10 in both directions (Karpathy & Fei-Fei 2015)."""
    captions_of = [
        sample.target.sentences for sample in index.samples if isinstance(sample.target, Text)
    ]
    captions = list(dict.fromkeys(caption for own in captions_of for caption in own))
    similarities = cosine_similarities(index.images, _embed_text(index.backbone, captions))
    relevant = relevance_matrix(captions_of, captions)
    groups = [sample.group or sample.key for sample in index.samples]
    first_image = relevant.int().argmax(0).tolist()
    of_captions = Units.of([groups[image] for image in first_image])
    image_to_text = recall_at_cutoffs(ranks(similarities, relevant), Units.of(groups))
    text_to_image = recall_at_cutoffs(ranks(similarities.T, relevant.T), of_captions)
    return RetrieveResult(
        index.name,
        {
            IMAGE_TO_TEXT: DirectionRecall(len(captions), image_to_text),
            TEXT_TO_IMAGE: DirectionRecall(len(captions_of), text_to_image),
        },
    )


def _read_samples(data: Path, recipe: Recipe, captions: bool) -> list[Sample]:
    if not captions and data.is_dir():
        samples = [
            Sample(file, printable(file.relative_to(data)), ImagePrediction())
            for file in find_images(data)
        ]
    else:
        reading = recipe.data
        table = read_table(data, reading.format, allow_outside=reading.allow_outside)
        samples = list(table.samples)
    if not samples:
        raise DataError("there are no images here", where=printable(data))
    if captions and not isinstance(samples[0].target, Text):
        raise DataError(
            "these images have no captions",
            where=printable(data),
            hint="a table with the columns path and text, "
            "or a text query: foveate retrieve DATA 'a red car'",
        )
    return samples


def _open_backbone(recipe: Recipe, run: Path | None) -> TextBackbone:
    config = recipe.backbone
    backbone = (
        load_predictor(run, "cpu").model.backbone
        if run
        else family_of(config.name).open(config.name, config.weights, config.size)
    )
    if not isinstance(backbone, TextBackbone):
        raise UsageError(
            f"{run or config.name} embeds images only, not text",
            where="backbone.name",
            hint="--backbone clip:ViT-B-32, or a run that was fine-tuned from such a backbone",
        )
    return backbone


def _embed_images(
    backbone: TextBackbone, samples: Sequence[Sample], cache: ImageCache, recipe: Recipe
) -> tuple[list[Sample], Tensor]:
    """Return the readable samples and their embeddings (I, D)."""
    readable = drop_unreadable(samples, cache, recipe.data.strict)
    if not readable:
        raise DataError("none of these images can be read", where=samples[0].key)
    device = resolve_device(recipe.device)
    with console.progress(len(readable), "images") as bar:
        return readable, pooled_features(backbone, readable, cache, "crop", device, bar.advance)


@torch.inference_mode()
def _embed_text(backbone: TextBackbone, texts: Sequence[str]) -> Tensor:
    """Return the embeddings (K, D)."""
    parts = even_slices(len(texts), _TEXT_BATCH)
    return torch.cat([backbone.embed_text(texts[part]).float().cpu() for part in parts])
