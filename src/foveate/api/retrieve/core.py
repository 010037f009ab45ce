"""retrieve DATA: pictures find their sentences and sentences their pictures, by a model that embeds
both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from foveate.data.discovery import find_images
from foveate.data.formats import read_table
from foveate.data.image_cache import ImageCache
from foveate.data.loading import even_slices
from foveate.data.scan import drop_unreadable
from foveate.errors import DataError, UsageError
from foveate.evaluation.retrieval import (
    CUTOFFS,
    cosine_similarities,
    ranks,
    recall_at_cutoffs,
    relevance_matrix,
)
from foveate.inference.features import pooled_features
from foveate.inference.predictor import load_predictor
from foveate.modeling.backbones import TextBackbone, family_of
from foveate.predictions import ImagePrediction, Text
from foveate.recipe import Recipe, recipe_from
from foveate.types import Sample, Score
from foveate.utils import console
from foveate.utils.device import resolve_device
from foveate.utils.paths import printable

_DEFAULT = "clip:ViT-B-32"
_AT_ONCE = 64


@dataclass(frozen=True)
class RetrieveResult:
    """`found`: of pictures that ask for sentences, and of sentences that ask for pictures, recall
    at 1, 5 and 10, and what chance would reach; or `nearest`: for each sentence that was given,
    the nearest pictures and their cosines.
    """

    columns: ClassVar[list[str]] = [
        "asked with",
        "to find among",
        *(f"recall@{cut}" for cut in CUTOFFS),
        "chance@1",
    ]
    what: str
    found: dict[str, tuple[int, list[Score]]] = field(default_factory=dict)
    nearest: dict[str, list[tuple[str, float]]] = field(default_factory=dict)

    @property
    def rows(self) -> list[list[str]]:
        return [
            [
                f"{scores[0].count} {name.split('_')[0]}",
                str(count),
                *map(_told, scores),
                f"{1 / count:.3f}",
            ]
            for name, (count, scores) in self.found.items()
        ]

    def numbers(self) -> dict[str, Any]:
        scores = {
            name: {
                "among": count,
                **{
                    f"recall_{cut}": asdict(score) for cut, score in zip(CUTOFFS, each, strict=True)
                },
            }
            for name, (count, each) in self.found.items()
        }
        return {
            "backbone": self.what,
            **scores,
            **({"nearest": self.nearest} if self.nearest else {}),
        }

    def lines(self) -> list[str]:
        near = {
            sentence: ", ".join(f"{key} ({alike:.3f})" for key, alike in best)
            for sentence, best in self.nearest.items()
        }
        told = [f"{sentence}: {best}" for sentence, best in near.items()]
        return [
            f"by {self.what}; 95 % intervals in brackets"
            if self.found
            else f"by {self.what}; cosines in brackets",
            *told,
        ]


def _told(score: Score) -> str:
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


@dataclass(frozen=True)
class Index:
    """The samples whose images could be read, their embeddings (I, D), and what embedded them."""

    samples: list[Sample]
    images: Tensor
    backbone: TextBackbone
    what: str


def retrieval_recipe(data: Path, run: Path | None, options: dict[str, Any]) -> Recipe:
    """Return the recipe. Raises UsageError where both a run and a backbone are given."""
    if run is not None and options.keys() & {"backbone", "weights", "size"}:
        raise UsageError("--run and --backbone are mutually exclusive", where=run)
    return recipe_from(data, {"backbone": _DEFAULT, **options}, {})


def embed(recipe: Recipe, run: Path | None, captions: bool) -> Index:
    """Embed the images of the recipe. `captions`: whether they must have captions."""
    samples = _samples(Path(recipe.data.path), recipe, not captions)
    backbone = _backbone(recipe, run).eval().to(resolve_device(recipe.device))
    read, images = _embedded(backbone, samples, recipe)
    what = str(run) if run else f"{recipe.backbone.name} ({backbone.origin})"
    return Index(read, images, backbone, what)


def find_nearest(index: Index, queries: Sequence[str], top: int) -> RetrieveResult:
    """Find the `top` images nearest to each query, by cosine."""
    alike = cosine_similarities(index.images, _said(index.backbone, queries)).T
    best = [row.topk(min(top, len(index.samples))) for row in alike]
    near = [
        [(index.samples[row].key, float(value)) for value, row in zip(*each, strict=True)]
        for each in best
    ]
    return RetrieveResult(index.what, nearest=dict(zip(queries, near, strict=True)))


def measure_recall(index: Index) -> RetrieveResult:
    """Measure recall at 1, 5 and 10 in both directions (Karpathy & Fei-Fei 2015)."""
    theirs = [
        sample.target.sentences for sample in index.samples if isinstance(sample.target, Text)
    ]
    every = list(dict.fromkeys(sentence for own in theirs for sentence in own))
    alike = cosine_similarities(index.images, _said(index.backbone, every))
    own = relevance_matrix(theirs, every)
    return RetrieveResult(
        index.what,
        {
            "pictures_to_sentences": (len(every), recall_at_cutoffs(ranks(alike, own))),
            "sentences_to_pictures": (len(theirs), recall_at_cutoffs(ranks(alike.T, own.T))),
        },
    )


def _samples(data: Path, recipe: Recipe, pictures_do: bool) -> list[Sample]:
    if pictures_do and data.is_dir():
        found = [
            Sample(file, printable(file.relative_to(data)), ImagePrediction())
            for file in find_images(data)
        ]
    else:
        found = list(read_table(data, recipe.data.format).samples)
    if not found:
        raise DataError("there are no pictures here", where=printable(data))
    if not pictures_do and not isinstance(found[0].target, Text):
        hint = "a table with the columns path and text, "
        hint += "or a sentence: foveate retrieve DATA 'a red car'"
        raise DataError("these pictures have no sentences", where=printable(data), hint=hint)
    return found


def _backbone(recipe: Recipe, run: Path | None) -> TextBackbone:
    asked = recipe.backbone
    found = (
        load_predictor(run, "cpu").model.backbone
        if run
        else family_of(asked.name).open(asked.name, asked.weights, asked.size)
    )
    if not isinstance(found, TextBackbone):
        what = f"{run or asked.name} embeds pictures alone, and no sentences"
        raise UsageError(
            what,
            where="backbone.name",
            hint="--backbone clip:ViT-B-32, or a run that was tuned from such a one",
        )
    return found


def _embedded(
    backbone: TextBackbone, samples: Sequence[Sample], recipe: Recipe
) -> tuple[list[Sample], Tensor]:
    """The samples whose pictures can be read, and (I, D)."""
    pixels = ImageCache(backbone.input.size, "crop", keep=True)
    read = drop_unreadable(samples, pixels, recipe.data.strict)
    if not read:
        raise DataError("none of these pictures can be read", where=samples[0].file.parent)
    with console.progress(len(read), "pictures") as bar:
        return read, pooled_features(
            backbone, read, pixels, "crop", resolve_device(recipe.device), bar.advance
        )


@torch.inference_mode()
def _said(backbone: TextBackbone, sentences: Sequence[str]) -> Tensor:
    """(K, D)."""
    parts = even_slices(len(sentences), _AT_ONCE)
    return torch.cat([backbone.embed_text(sentences[part]).float().cpu() for part in parts])
