"""What can be explained about an image, and tests of the maps that explain it.

A map is faithful if the score vanishes when the cells that it marks are covered (deletion), and
appears when they alone are shown (insertion): Petsiuk et al. 2018. Both are compared with random
orders of cells. The map is also compared with that of a network with random weights (Adebayo et al.
2018): if it is similar, the map shows the image, not what was learned.

Letters: S side of the square that the network sees, px; G cells along it; V variants of an image;
N scores of the image; O orders of the cells; C variants on a curve between its ends.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # submodules are imported when they are used
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

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
_ENDS = 3  # variants at which curves begin and end: the image, the mean color, the blurred image
_SHORT_STEPS = (3, 4, 5, 6, 7)
_SHORT_RANDOM_ORDERS = 5
_SHORT_FLOPS = 6e11  # about four seconds on two cores
_BATCH_PIXELS = 16 * 224**2  # larger batches are slower on a processor
_BLUR = 0.05  # standard deviation of the blur that insertion starts from, as a share of S
_NEUTRAL_TEXT = "a photo."  # text queries are compared with it
_MIN_STD = 0.02  # of random weights


@dataclass(frozen=True)
class CurveTest:
    """How finely the curves of a map are measured.

    Attributes:
        steps: Steps of a curve, in each of which as many cells are covered or shown.
        random_orders: Random orders of cells that the map is compared with.
    """

    steps: int
    random_orders: int

    def passes(self, maps: int) -> int:
        """Return the variants of an image that test a number of maps."""
        return _ENDS + 2 * (self.steps - 1) * (self.random_orders + maps)


THOROUGH_TEST = CurveTest(steps=14, random_orders=6)


def short_test(pass_flops: int, maps: int) -> CurveTest:
    """Return the finest test, of 3 to 7 steps, that takes a few seconds on a processor.

    It depends on numbers of operations, not on measured times, so that verdicts can be repeated.

    Args:
        pass_flops: Floating-point operations of a forward pass of one image.
        maps: Maps of the image that are tested.
    """
    tests = [CurveTest(steps, _SHORT_RANDOM_ORDERS) for steps in _SHORT_STEPS]
    fitting = [test for test in tests if test.passes(maps) * pass_flops <= _SHORT_FLOPS]
    return fitting[-1] if fitting else tests[0]


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
        threshold: Confidence from which the run predicts an object.
    """

    model: Model
    batch: Batch
    threshold: float = 0.0

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
        return cls(model, batch.to(predictor.device), predictor.threshold)

    def output(self, images: Tensor) -> Any:
        """Return the output of the model for V variants of the image."""
        count, batch = len(images), self.batch
        targets: list[Any] = [{} for _ in range(count)]
        views, sizes = batch.views.expand(count, -1), batch.sizes.expand(count, -1)
        return self.model(Batch(images, targets, views, sizes, batch.indices.expand(count)))

    def requests(self, scores: Sequence[ExplainableScore]) -> list[ExplainRequest]:
        """Return the inputs of an explainer for scores, which share what is theirs alike."""
        image, shared = self.batch.images, dict[str, Any]()
        return [
            ExplainRequest(image, self.output, score.score, self.model.backbone, shared)
            for score in scores
        ]

    def request(self, score: ExplainableScore) -> ExplainRequest:
        """Return the input of an explainer for a score."""
        return self.requests([score])[0]

    def pixels(self, side: int) -> np.ndarray:
        """Return the image as the network sees it, (side, side, 3) uint8."""
        spec = self.model.backbone.input
        return resize(as_pixels(self.batch.images, spec.mean, spec.std)[0], (side, side))

    def box(self, score: ExplainableScore) -> tuple[float, ...] | None:
        """Return the box of the object of a score, px of the upright original."""
        if score.found is None:
            return None
        view, (height, width) = self.batch.views[0].cpu(), self.batch.sizes[0].tolist()
        scale = float(view[2] - view[0]) / self.batch.images.shape[-1]
        corners = (
            x * scale + start for x, start in zip(score.found.box, view[[0, 1, 0, 1]], strict=True)
        )
        limits = (width, height, width, height)
        return tuple(
            min(max(float(x), 0.0), float(limit)) for x, limit in zip(corners, limits, strict=True)
        )

    @torch.no_grad()
    def explainable_scores(self) -> list[ExplainableScore]:
        """Return the scores of the prediction that can be explained, the most important first."""
        scores = self.model.task.explainable_scores(self.output(self.batch.images), self.batch)
        return [
            score
            for score in scores
            if score.found is None or score.found.confidence >= self.threshold
        ]

    @torch.no_grad()
    def pass_flops(self) -> int:
        """Return the floating-point operations of a forward pass of the image."""
        with FlopCounterMode(display=False) as counter:
            self.output(self.batch.images)
        return int(counter.get_total_flops())

    @torch.no_grad()
    def probabilities(self, scores: Sequence[ExplainableScore], images: Tensor) -> np.ndarray:
        """Return scores in [0, 1], (V, N), for variants of the image, which are one batch."""
        output = self.output(images)
        columns = [score.probability(output) for score in scores]
        return torch.stack(columns, 1).float().cpu().numpy()


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


class FaithfulnessTest:
    """Deletion and insertion curves of the scores of one image.

    A forward pass gives all scores of a variant of the image. So the random orders are measured
    once for all scores, and the ends of the curves once for all orders.

    Args:
        target: The model and the image.
        scores: The scores.
        test: How finely curves are measured.
        seed: Seed of the random orders.
    """

    def __init__(
        self,
        target: ExplainTarget,
        scores: Sequence[ExplainableScore],
        test: CurveTest = THOROUGH_TEST,
        seed: int = 0,
    ) -> None:
        self.target, self.scores, self.steps = target, scores, test.steps
        self.image = target.batch.images
        self.blurred = _blur(self.image)
        covered = torch.zeros_like(self.image)  # 0 is the mean color
        ends = torch.cat([self.image, covered, self.blurred])
        self.whole, self.covered, self.hidden = target.probabilities(scores, ends)
        rng = np.random.default_rng(seed)
        orders = [rng.permutation(_CELLS**2) for _ in range(test.random_orders)]
        deletion, insertion = self._areas(orders)
        self.random = (insertion - deletion).mean(0), (insertion - deletion).std(0, ddof=1)

    def measure(self, maps: Sequence[tuple[int, Tensor]]) -> list[Faithfulness]:
        """Measure the faithfulness of maps (h, w), each with the index of its score."""
        orders = [np.argsort(-cell_means(map_).ravel(), kind="stable") for _, map_ in maps]
        deletion, insertion = self._areas(orders)
        mean, deviation = self.random
        return [
            Faithfulness(
                float(deletion[row, score]),
                float(insertion[row, score]),
                (float(mean[score]), float(deviation[score])),
            )
            for row, (score, _) in enumerate(maps)
        ]

    def _areas(self, orders: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Areas (O, N) under the curves of deletion and insertion, for orders of the cells."""
        ranks = np.argsort(np.stack(orders), axis=1)  # of each cell in the order
        ends = np.linspace(0, _CELLS**2, self.steps + 1).round()[1:-1]
        selected = ranks[:, None] < ends[:, None]  # (O, C, G * G)
        values = self._probabilities(torch.from_numpy(selected).reshape(-1, _CELLS, _CELLS))
        deletion, insertion = values.reshape(2, len(orders), len(ends), -1)
        shape = (len(orders), 1, len(self.scores))
        whole, covered, hidden = (
            np.broadcast_to(end, shape) for end in (self.whole, self.covered, self.hidden)
        )
        curves = [whole, deletion, covered], [hidden, insertion, whole]
        below, above = (
            np.trapezoid(np.concatenate(curve, 1), dx=1 / self.steps, axis=1) for curve in curves
        )
        return below, above

    def _probabilities(self, selected: Tensor) -> np.ndarray:
        """(2, V, N): the scores where cells (V, G, G) are covered, and where they are shown."""
        size = max(1, _BATCH_PIXELS // (2 * self.image.shape[-1] ** 2))
        parts = []
        for part in even_slices(len(selected), size):
            mask = functional.interpolate(
                selected[part, None].to(self.image), self.image.shape[-2:], mode="nearest"
            )
            deleted = self.image * (1 - mask)
            inserted = self.blurred + mask * (self.image - self.blurred)
            values = self.target.probabilities(self.scores, torch.cat([deleted, inserted]))
            parts.append(values.reshape(2, len(mask), -1))
        return np.concatenate(parts, 1)


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
    explainer: Explainer, map_: Tensor, randomized: ExplainRequest
) -> float:
    """Compare a map with that of a model with random weights.

    Args:
        explainer: The method.
        map_: The map of the trained model, (h, w).
        randomized: The same image and score, of the model with random weights.

    Returns:
        Spearman's correlation, in [-1, 1]; 1 means that the weights do not matter, and 0 that they
        do, or that one of the maps is constant.
    """
    cells = [cell_means(each).ravel() for each in (map_, explainer.explain(randomized).detach())]
    if not all(np.ptp(each) > 0 for each in cells):  # also where a map is not finite
        return 0.0
    return float(scipy.stats.spearmanr(*cells).statistic)
