"""retrieve DATA: pictures find their sentences and sentences their pictures, by a model that embeds both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from foveate.data.discovery import find_images
from foveate.data.formats import read_table
from foveate.data.image_cache import Pixels
from foveate.data.loading import even_parts
from foveate.data.scan import readable
from foveate.errors import DataError, UsageError
from foveate.evaluation.retrieval import CUTS, belonging, likeness, ranks, recalls
from foveate.inference.features import pooled
from foveate.inference.predictor import load
from foveate.modeling.backbones import TextBackbone, family_of
from foveate.predictions import Picture, Text
from foveate.recipe import Recipe, recipe_from
from foveate.types import Sample, Score
from foveate.utils import console
from foveate.utils.device import device_of
from foveate.utils.paths import printable

_DEFAULT = "clip:ViT-B-32"
_AT_ONCE = 64


@dataclass(frozen=True)
class RetrieveResult:
    """`found`: of pictures that ask for sentences, and of sentences that ask for pictures, recall at 1, 5 and 10, and what chance
    would reach; or `nearest`: for each sentence that was given, the nearest pictures and their cosines."""

    columns: ClassVar[list[str]] = [
        "asked with",
        "to find among",
        *(f"recall@{cut}" for cut in CUTS),
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
                **{f"recall_{cut}": asdict(score) for cut, score in zip(CUTS, each, strict=True)},
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


def retrieve(
    data: Path,
    *,
    run: Path | None = None,
    sentences: Sequence[str] = (),
    top: int = 5,
    words: dict[str, Any] | None = None,
) -> RetrieveResult:
    """Recall at 1, 5 and 10 both ways (Karpathy & Fei-Fei 2015) on data with sentences; or, with `sentences`, the `top` nearest of
    the pictures at `data`, which need no labels then.

    The model is that of a finished `run`, or the backbone that the `words` of a recipe name. Raises UsageError for one that embeds
    no sentences, DataError for data without any.
    """
    recipe = recipe_from(data, {"backbone": _DEFAULT, **(words or {})}, {})
    if run is not None and (words or {}).keys() & {"backbone", "weights", "size"}:
        raise UsageError(
            "--run brings its own backbone: --backbone cannot be named beside it", where=run
        )
    samples = _samples(data, recipe, bool(sentences))
    backbone = _backbone(recipe, run).eval().to(device_of(recipe.device))
    read, pictures = _embedded(backbone, samples, recipe)
    what = str(run) if run else f"{recipe.backbone.name} ({backbone.origin})"
    if sentences:
        alike = likeness(pictures, _said(backbone, sentences)).T
        best = [row.topk(min(top, len(read))) for row in alike]
        near = [
            [(read[place].key, float(value)) for value, place in zip(*each, strict=True)]
            for each in best
        ]
        return RetrieveResult(what, nearest=dict(zip(sentences, near, strict=True)))
    theirs = [sample.truth.sentences for sample in read if isinstance(sample.truth, Text)]
    every = list(dict.fromkeys(sentence for own in theirs for sentence in own))
    alike, own = likeness(pictures, _said(backbone, every)), belonging(theirs, every)
    return RetrieveResult(
        what,
        {
            "pictures_to_sentences": (len(every), recalls(ranks(alike, own))),
            "sentences_to_pictures": (len(theirs), recalls(ranks(alike.T, own.T))),
        },
    )


def _samples(data: Path, recipe: Recipe, pictures_do: bool) -> list[Sample]:
    if pictures_do and data.is_dir():
        found = [
            Sample(file, printable(file.relative_to(data)), Picture()) for file in find_images(data)
        ]
    else:
        found = list(read_table(data, recipe.data.format).samples)
    if not found:
        raise DataError("there are no pictures here", where=printable(data))
    if not pictures_do and not isinstance(found[0].truth, Text):
        hint = "a table with the columns path and text, or a sentence: foveate retrieve DATA 'a red car'"
        raise DataError("these pictures have no sentences", where=printable(data), hint=hint)
    return found


def _backbone(recipe: Recipe, run: Path | None) -> TextBackbone:
    asked = recipe.backbone
    found = (
        load(run, "cpu").model.backbone
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
    pixels = Pixels(backbone.input.size, "crop", keep=True)
    read = readable(samples, pixels, recipe.data.strict)
    if not read:
        raise DataError("none of these pictures can be read", where=samples[0].path.parent)
    with console.progress(len(read), "pictures") as bar:
        return read, pooled(backbone, read, pixels, "crop", device_of(recipe.device), bar.advance)


@torch.inference_mode()
def _said(backbone: TextBackbone, sentences: Sequence[str]) -> Tensor:
    """(K, D)."""
    parts = even_parts(len(sentences), _AT_ONCE)
    return torch.cat([backbone.embed_text(sentences[part]).float().cpu() for part in parts])
