"""Why an answer, and whether to believe the map that says so.

Letters: S the network's square, px, G cells along its side, V variants of a picture.

A map is faithful when covering what it marks takes the answer away (deletion), and showing that alone brings it back (insertion):
Petsiuk et al. 2018. What any order of cells would do is measured beside it, and so is the map of a network with random weights
(Adebayo et al. 2018): a map that looks the same shows the picture, and nothing of what was learnt.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy  # its parts are imported when they are named
import torch
from torch import Tensor, nn
from torch.nn import functional

from foveate.data.image_cache import ImageCache
from foveate.data.loading import BatchSampler, even_slices, make_loader
from foveate.data.transforms import as_pixels
from foveate.errors import UsageError
from foveate.explainability.methods import Explainer, ExplainRequest
from foveate.images import heatmaps
from foveate.images.codec import resize
from foveate.inference.predictor import Predictor
from foveate.modeling.backbones import TextBackbone
from foveate.modeling.model import Model
from foveate.modeling.tasks import ExplainableScore
from foveate.types import Batch, Provides, Sample

_CELLS = 14
_STEPS = 14  # of a curve
_RANDOM = 6  # orders beside the map's
_AT_ONCE = 16
_BLUR = 0.05  # deviation of the blurred picture that insertion starts from, of the side
_NOTHING = "a photo."  # the sentence of a picture of nothing in particular
_DEVIATION = 0.02  # of random weights


@dataclass(frozen=True)
class Faithfulness:
    """Areas under curves of the answer's chance, in [0, 1]. `deletion`: cells are covered in the map's order, low is good;
    `insertion`: they are shown, high is good. `random`: the mean of insertion less deletion over random orders, and their
    deviation."""

    deletion: float
    insertion: float
    random: tuple[float, float]

    @property
    def gain(self) -> float:
        """Insertion less deletion, beyond that of random orders."""
        return self.insertion - self.deletion - self.random[0]

    @property
    def better(self) -> bool:
        """Beyond two deviations of random orders."""
        return self.gain > 2 * self.random[1]

    def row(self) -> dict[str, Any]:
        random = {"random": self.random[0], "random_deviation": self.random[1]}
        areas = {"deletion": self.deletion, "insertion": self.insertion}
        return {**areas, **random, "gain": self.gain, "better_than_random": self.better}


@dataclass(frozen=True)
class ExplainTarget:
    """One picture before a model. `batch`: it alone."""

    model: Model
    batch: Batch

    def output(self, images: Tensor) -> Any:
        """Of V variants."""
        count, one = len(images), self.batch
        targets: list[Any] = [{} for _ in range(count)]
        views, sizes = one.views.expand(count, -1), one.sizes.expand(count, -1)
        return self.model(Batch(images, targets, views, sizes, one.indices.expand(count)))

    def asked(self, question: ExplainableScore) -> ExplainRequest:
        return ExplainRequest(
            self.batch.images,
            lambda images: question.score(self.output(images)),
            self.model.backbone,
        )

    @classmethod
    def of(cls, predictor: Predictor, sample: Sample) -> ExplainTarget:
        """Raises BrokenImage."""
        pixels = ImageCache(
            predictor.model.backbone.input.size, predictor.model.task.framing, keep=True
        )
        pictures = predictor.dataset([sample], pixels)
        batch = next(iter(make_loader(pictures, BatchSampler(len(pictures), 1))))
        return cls(predictor.model, batch.to(predictor.device))

    def pixels(self, side: int) -> np.ndarray:
        """(side, side, 3) uint8: the picture as the network sees it."""
        spec = self.model.backbone.input
        return resize(as_pixels(self.batch.images, spec.mean, spec.std)[0], (side, side))

    @torch.no_grad()
    def questions(self) -> list[ExplainableScore]:
        return self.model.task.explainable_scores(self.output(self.batch.images), self.batch)

    @torch.no_grad()
    def chances(self, question: ExplainableScore, images: Tensor) -> np.ndarray:
        parts = [
            question.probability(self.output(images[part])) for part in even_slices(len(images), _AT_ONCE)
        ]
        return torch.cat(parts).float().cpu().numpy()


@dataclass(frozen=True)
class TextTarget(ExplainTarget):
    """One picture before sentences: how much more it is like each than like a picture of nothing, as the backbone embeds both."""

    sentences: tuple[str, ...] = ()

    def output(self, images: Tensor) -> Tensor:
        """(V, D), of length 1."""
        pooled = self.model.backbone(images, {Provides.POOLED}).pooled
        assert pooled is not None
        return functional.normalize(pooled.float(), dim=1)

    @torch.no_grad()
    def questions(self) -> list[ExplainableScore]:
        backbone = self.model.backbone
        if not isinstance(backbone, TextBackbone):
            hint = "a run from a backbone such as clip:ViT-B-32"
            raise UsageError(
                "this run's backbone embeds pictures alone, and no sentences",
                where="--text",
                hint=hint,
            )
        known = functional.normalize(
            backbone.embed_text([*self.sentences, _NOTHING]).float(), dim=1
        )
        return [
            self._question(sentence, own - known[-1])
            for sentence, own in zip(self.sentences, known[:-1], strict=True)
        ]

    def _question(self, sentence: str, towards: Tensor) -> ExplainableScore:
        scale = float(self.model.backbone.logit_scale)  # type: ignore[arg-type]

        def score(output: Tensor) -> Tensor:
            return scale * output @ towards

        return ExplainableScore(sentence, score, lambda output: score(output).sigmoid())


def overlay(pixels: np.ndarray, map_: Tensor) -> np.ndarray:
    """The map (h, w) laid over the picture (S, S, 3)."""
    wide = functional.interpolate(
        map_[None, None].detach().float().cpu(),
        pixels.shape[:2],
        mode="bilinear",
        align_corners=False,
    )
    return heatmaps.heat_overlay(pixels, wide[0, 0].numpy())


def cells(map_: Tensor) -> np.ndarray:
    """(h, w) -> (G, G), the mean in each cell."""
    wide = functional.interpolate(
        map_[None, None].float().cpu(),
        (4 * _CELLS, 4 * _CELLS),
        mode="bilinear",
        align_corners=False,
    )
    return functional.adaptive_avg_pool2d(wide, _CELLS)[0, 0].numpy()


class Curves:
    """Deletion and insertion for one question; what random orders do is measured once."""

    def __init__(self, subject: ExplainTarget, question: ExplainableScore, seed: int = 0) -> None:
        self.subject, self.question = subject, question
        self.image = subject.batch.images
        self.blurred = _blurred(self.image)
        rng = np.random.default_rng(seed)
        areas = [self._areas(rng.permutation(_CELLS**2)) for _ in range(_RANDOM)]
        differences = [insertion - deletion for deletion, insertion in areas]
        self.random = float(np.mean(differences)), float(np.std(differences, ddof=1))

    def faith(self, map_: Tensor) -> Faithfulness:
        return Faithfulness(*self._areas(np.argsort(-cells(map_).ravel(), kind="stable")), self.random)

    def _areas(self, order: np.ndarray) -> tuple[float, float]:
        """Under deletion's curve, and under insertion's."""
        rank = np.empty(len(order), int)
        rank[order] = np.arange(len(order))
        ends = torch.from_numpy(np.linspace(0, len(order), _STEPS + 1).round())[:, None, None]
        shown = (
            (torch.from_numpy(rank).reshape(1, _CELLS, _CELLS) < ends)
            .float()[:, None]
            .to(self.image)
        )
        wide = functional.interpolate(shown, self.image.shape[-2:], mode="nearest")
        gone = self.subject.chances(self.question, self.image * (1 - wide))  # 0 is the mean colour
        come = self.subject.chances(
            self.question, self.blurred + wide * (self.image - self.blurred)
        )
        return float(np.trapezoid(gone, dx=1 / _STEPS)), float(np.trapezoid(come, dx=1 / _STEPS))


def _blurred(image: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as pictures

    deviation = max(1.0, _BLUR * image.shape[-1])
    found: Tensor = pictures.gaussian_blur(image, [2 * int(2 * deviation) + 1] * 2, [deviation] * 2)
    return found


def randomize_weights(model: Model, seed: int = 0) -> Model:
    """A copy whose weights are noise, its statistics of batch normalisation included in what is kept: layers stay in scale."""
    found = copy.deepcopy(model)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in found.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.ndim > 1:
                deviation = weight.std().clamp(min=_DEVIATION)
                weight.copy_(deviation * torch.randn(weight.shape, generator=source).to(weight))
    return found


def randomization_similarity(
    explainer: Explainer, subject: ExplainTarget, question: ExplainableScore, map_: Tensor, other: Model
) -> float:
    """Spearman's correlation of the map with that of a model with random weights, in [-1, 1]; 1: the weights do not matter."""
    theirs = explainer.explain(replace(subject, model=other).asked(question))
    found = scipy.stats.spearmanr(cells(map_).ravel(), cells(theirs).ravel()).statistic
    return float(found) if np.isfinite(found) else 0.0
