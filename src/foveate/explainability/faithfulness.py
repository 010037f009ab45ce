"""What can be explained about an image, and tests of the maps that explain it.

A map is faithful if the score vanishes when the cells that it marks are covered (deletion), and
appears when they alone are shown (insertion): Petsiuk et al. 2018. Both are compared with random
orders of cells. The map is also compared with that of a network with random weights (Adebayo et al.
2018): if it is similar, the map shows the image, not what was learned.

Letters: S side of the square that the network sees, px; G cells along it; V variants of an image.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy  # submodules are imported when they are used
import torch
from torch import Tensor, nn
from torch.nn import functional

from foveate.data.loading import BatchSampler, even_slices, make_loader
from foveate.data.transforms import as_pixels
from foveate.errors import UsageError
from foveate.explainability.methods import Explainer, ExplainRequest
from foveate.images.codec import resize
from foveate.images.heatmaps import heat_overlay
from foveate.inference.predictor import Predictor
from foveate.modeling.backbones import TextBackbone
from foveate.modeling.model import Model
from foveate.modeling.tasks import ExplainableScore
from foveate.types import Batch, Provides, Sample

_CELLS = 14
_STEPS = 14  # of a curve
_RANDOM_ORDERS = 6
_BATCH_SIZE = 16
_BLUR = 0.05  # standard deviation of the blur that insertion starts from, as a share of S
_NEUTRAL_TEXT = "a photo."  # text queries are compared with it
_MIN_STD = 0.02  # of random weights


@dataclass(frozen=True)
class Faithfulness:
    """Areas under the curves of a probability, in [0, 1].

    Attributes:
        deletion: Cells are covered in the order of the map; low is good.
        insertion: Cells are shown in that order; high is good.
        random: Mean and standard deviation of insertion minus deletion over random orders.
    """

    deletion: float
    insertion: float
    random: tuple[float, float]

    @property
    def gain(self) -> float:
        """Insertion minus deletion, compared with random orders."""
        return self.insertion - self.deletion - self.random[0]

    @property
    def better_than_random(self) -> bool:
        """Whether the gain exceeds two standard deviations of random orders."""
        return self.gain > 2 * self.random[1]

    def row(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "deletion": self.deletion,
            "insertion": self.insertion,
            "random": self.random[0],
            "random_deviation": self.random[1],
            "gain": self.gain,
            "better_than_random": self.better_than_random,
        }


@dataclass(frozen=True)
class ExplainTarget:
    """A model and an image.

    Attributes:
        model: The model.
        batch: The image, as a batch of one.
    """

    model: Model
    batch: Batch

    @classmethod
    def from_sample(cls, predictor: Predictor, sample: Sample) -> ExplainTarget:
        """Preprocess the image of a sample; of large images that are seen in tiles, the first tile.

        Raises:
            BrokenImage: The image cannot be decoded.
        """
        model = predictor.model
        cache = predictor.new_cache(keep=True)
        dataset = predictor.dataset([sample], cache)
        batch = next(iter(make_loader(dataset, BatchSampler(len(dataset), 1))))
        return cls(model, batch.to(predictor.device))

    def output(self, images: Tensor) -> Any:
        """Return the output of the model for V variants of the image."""
        count, batch = len(images), self.batch
        targets: list[Any] = [{} for _ in range(count)]
        views, sizes = batch.views.expand(count, -1), batch.sizes.expand(count, -1)
        return self.model(Batch(images, targets, views, sizes, batch.indices.expand(count)))

    def request(self, score: ExplainableScore) -> ExplainRequest:
        """Return the input of an explainer for a score."""
        return ExplainRequest(
            self.batch.images,
            lambda images: score.score(self.output(images)),
            self.model.backbone,
        )

    def pixels(self, side: int) -> np.ndarray:
        """Return the image as the network sees it, (side, side, 3) uint8."""
        spec = self.model.backbone.input
        return resize(as_pixels(self.batch.images, spec.mean, spec.std)[0], (side, side))

    @torch.no_grad()
    def explainable_scores(self) -> list[ExplainableScore]:
        """Return the scores of the prediction that can be explained, the most important first."""
        return self.model.task.explainable_scores(self.output(self.batch.images), self.batch)

    @torch.no_grad()
    def probabilities(self, score: ExplainableScore, images: Tensor) -> np.ndarray:
        """Return a score in [0, 1], (V,), for variants of the image."""
        parts = [
            score.probability(self.output(images[part]))
            for part in even_slices(len(images), _BATCH_SIZE)
        ]
        return torch.cat(parts).float().cpu().numpy()


@dataclass(frozen=True)
class TextTarget(ExplainTarget):
    """A model, an image and text queries.

    A score is the similarity of image and query, minus that of the image and a neutral text.
    """

    sentences: tuple[str, ...] = ()

    def output(self, images: Tensor) -> Tensor:
        """Return the embeddings of V variants of the image, (V, D) of length 1."""
        pooled = self.model.backbone(images, {Provides.POOLED}).pooled
        assert pooled is not None
        return functional.normalize(pooled.float(), dim=1)

    @torch.no_grad()
    def explainable_scores(self) -> list[ExplainableScore]:
        backbone = self.model.backbone
        if not isinstance(backbone, TextBackbone):
            raise UsageError(
                "text queries need a backbone that embeds text, such as CLIP",
                where="--text",
                hint="a run with --backbone clip:ViT-B-32",
            )
        embeddings = backbone.embed_text([*self.sentences, _NEUTRAL_TEXT]).float()
        *queries, neutral = functional.normalize(embeddings, dim=1)
        return [
            self._score(sentence, query - neutral)
            for sentence, query in zip(self.sentences, queries, strict=True)
        ]

    def _score(self, sentence: str, direction: Tensor) -> ExplainableScore:
        scale = float(self.model.backbone.logit_scale)  # type: ignore[arg-type]

        def score(output: Tensor) -> Tensor:
            return scale * output @ direction

        return ExplainableScore(sentence, score, lambda output: score(output).sigmoid())


def overlay(pixels: np.ndarray, map_: Tensor) -> np.ndarray:
    """Draw a map (h, w) over an image (S, S, 3)."""
    resized = functional.interpolate(
        map_[None, None].detach().float().cpu(),
        pixels.shape[:2],
        mode="bilinear",
        align_corners=False,
    )
    return heat_overlay(pixels, resized[0, 0].numpy())


def cell_means(map_: Tensor) -> np.ndarray:
    """(h, w) -> (G, G), the mean in each cell."""
    resized = functional.interpolate(
        map_[None, None].float().cpu(),
        (4 * _CELLS, 4 * _CELLS),
        mode="bilinear",
        align_corners=False,
    )
    return functional.adaptive_avg_pool2d(resized, _CELLS)[0, 0].numpy()


class FaithfulnessCurves:
    """Deletion and insertion curves of one score; random orders are measured once.

    Args:
        target: The model and the image.
        score: The score.
        seed: Seed of the random orders.
    """

    def __init__(self, target: ExplainTarget, score: ExplainableScore, seed: int = 0) -> None:
        self.target, self.score = target, score
        self.image = target.batch.images
        self.blurred = _blur(self.image)
        rng = np.random.default_rng(seed)
        areas = [self._areas(rng.permutation(_CELLS**2)) for _ in range(_RANDOM_ORDERS)]
        differences = [insertion - deletion for deletion, insertion in areas]
        self.random = float(np.mean(differences)), float(np.std(differences, ddof=1))

    def measure(self, map_: Tensor) -> Faithfulness:
        """Measure the faithfulness of a map (h, w)."""
        order = np.argsort(-cell_means(map_).ravel(), kind="stable")
        return Faithfulness(*self._areas(order), self.random)

    def _areas(self, order: np.ndarray) -> tuple[float, float]:
        """Return the areas under the curves of deletion and insertion for an order of cells."""
        rank = np.empty(len(order), int)
        rank[order] = np.arange(len(order))
        ends = torch.from_numpy(np.linspace(0, len(order), _STEPS + 1).round())[:, None, None]
        selected = (torch.from_numpy(rank).reshape(1, _CELLS, _CELLS) < ends).float()[:, None]
        mask = functional.interpolate(
            selected.to(self.image), self.image.shape[-2:], mode="nearest"
        )
        deleted = self.image * (1 - mask)  # 0 is the mean color
        inserted = self.blurred + mask * (self.image - self.blurred)
        deletion, insertion = (
            np.trapezoid(self.target.probabilities(self.score, images), dx=1 / _STEPS)
            for images in (deleted, inserted)
        )
        return float(deletion), float(insertion)


def _blur(image: Tensor) -> Tensor:
    from torchvision.transforms.v2.functional import gaussian_blur

    sigma = max(1.0, _BLUR * image.shape[-1])
    blurred: Tensor = gaussian_blur(image, [2 * int(2 * sigma) + 1] * 2, [sigma] * 2)
    return blurred


def randomize_weights(model: Model, seed: int = 0) -> Model:
    """Return a copy of a model with random weights of the same scale.

    Vectors and the statistics of batch normalization are kept, so that activations stay in scale.
    """
    randomized = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in randomized.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.ndim > 1:
                std = weight.std().clamp(min=_MIN_STD)
                weight.copy_(std * torch.randn(weight.shape, generator=generator).to(weight))
    return randomized


def randomization_similarity(
    explainer: Explainer,
    target: ExplainTarget,
    score: ExplainableScore,
    map_: Tensor,
    randomized: Model,
) -> float:
    """Compare a map with that of a model with random weights.

    Args:
        explainer: The method.
        target: The trained model and the image.
        score: The score that the map explains.
        map_: The map of the trained model, (h, w).
        randomized: The model with random weights.

    Returns:
        Spearman's correlation, in [-1, 1]; 1 means that the weights do not matter, and 0 that they
        do, or that one of the maps is constant.
    """
    other = explainer.explain(replace(target, model=randomized).request(score))
    cells = [cell_means(each).ravel() for each in (map_, other)]
    if any(np.ptp(each) == 0 for each in cells):
        return 0.0
    return float(scipy.stats.spearmanr(*cells).statistic)
