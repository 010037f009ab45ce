"""Which class, or which classes, an image shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from foveate.modeling.backbones import Backbone
from foveate.modeling.tasks import DataFacts, ExplainableScore, Settled, Task, TaskSettings
from foveate.predictions import Labels
from foveate.types import Batch, Features, Provides, TargetTensors

_FEW = 2000  # training images up to which maps are read: they help most where labels are few, and cost the solver time
_GRID = 3  # cells along each side, of the deepest maps
_DEEPEST = 3  # maps whose layout is read; the finer ones say what there is, not where
_SOFT = 1e-3  # under a square root, whose slope at 0 is infinite: training goes through it
_UNBALANCED = 2.0  # times the smallest class: from here the largest one would drown it


class ClassifySettings(TaskSettings):
    multilabel: bool = Field(
        False, description="any number of classes may hold at once; read off the labels"
    )
    loss: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy", description="what is minimised; focal: Lin et al. 2017"
    )
    gamma: float = Field(2.0, ge=0, description="focal loss: how much sure answers are discounted")
    smoothing: float = Field(
        0.1, ge=0, lt=1, description="label smoothing (Szegedy et al. 2016); not for multi-label"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the head")
    features: Literal["auto", "pooled", "maps"] = Field(
        "auto",
        description="what the head reads: pooled = one vector, maps = maps of every depth too; auto: maps for up to 2,000 images "
        "and a head that is solved",
    )
    class_weights: list[float] | Literal["auto", "none"] = Field(
        "auto",
        description="weight of each class in the loss; auto: inverse frequency where sizes differ twofold",
    )


class LinearHead(nn.Module):
    """Features -> logits (B, K): described, standardised by fixed numbers, weighed.

    `unit`: whether what is standardised is brought to length 1. `widths`: channels of the maps that are read beside the pooled
    vector, none for the vector alone.
    """

    mean: Tensor
    std: Tensor
    l2_normalize = False

    def __init__(self, width: int, widths: tuple[int, ...], classes: int, dropout: float) -> None:
        super().__init__()
        width += 2 * sum(widths) + _GRID**2 * sum(widths[-_DEEPEST:])
        self.register_buffer("middle", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Features, batch: Batch | None = None) -> Tensor:
        standard = (self.feature_vector(features) - self.mean) / self.std
        standard = functional.normalize(standard, dim=1) if self.l2_normalize else standard
        return cast(Tensor, self.linear(self.dropout(standard)))

    def feature_vector(self, features: Features) -> Tensor:
        """(B, D): the pooled vector alone; or with the greatest value and the deviation of every map and the means of the
        cells of a grid over the deepest ones, all as signed square roots.

        Layers of every depth help where labels are few and images unlike ImageNet's (Head2Toe, Evci et al. 2022), a grid
        keeps the layout (Lazebnik et al. 2006), the root tames long tails (Perronnin et al. 2010).
        """
        assert features.pooled is not None
        if not features.maps:
            return features.pooled
        found = [
            features.pooled,
            *(
                summary
                for each in features.maps
                for summary in (each.amax((2, 3)), _deviation(each))
            ),
        ]
        found += [_cells(each) for each in features.maps[-_DEEPEST:]]
        together = torch.cat([part.float() for part in found], 1)
        return together.sign() * ((together.abs() + _SOFT).sqrt() - math.sqrt(_SOFT))


def _cells(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C * G * G): means over the cells of a grid, as adaptive_avg_pool2d has them; but as products, which other
    runtimes compute several times as fast."""
    rows, columns = (_shares(length).to(maps) for length in maps.shape[-2:])
    return (rows @ maps @ columns.T).flatten(1)


def _shares(length: int) -> Tensor:
    """(G, length): what each cell takes of each step."""
    places = torch.arange(length)
    starts = torch.arange(_GRID) * length // _GRID
    ends = -(-torch.arange(1, _GRID + 1) * length // _GRID)
    inside = (places >= starts[:, None]) & (places < ends[:, None])
    return inside / inside.sum(1, keepdim=True)


def _deviation(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C). Two means, because torch's own variance takes eight times as long on a processor."""
    maps = maps.float()
    return ((maps - maps.mean((2, 3), keepdim=True)).square().mean((2, 3)) + _SOFT**2).sqrt()


class Classify(Task):
    prediction_type: ClassVar[type[Labels]] = Labels
    question: ClassVar[str] = "Which class does a picture belong to?"
    default_overrides: ClassVar[dict[str, Any]] = {"tuning": "probe"}
    Settings: ClassVar[type[TaskSettings]] = ClassifySettings

    settings: ClassifySettings

    @property
    def needs(self) -> frozenset[Provides]:  # type: ignore[override]
        return frozenset(
            {Provides.POOLED, Provides.MAPS} if self.settings.features == "maps" else {Provides.POOLED}
        )

    @classmethod
    def resolve_settings(
        cls, settings: dict[str, Any], truths: Sequence[Any], classes: tuple[str, ...], facts: DataFacts
    ) -> list[Settled]:
        found: list[Settled] = []
        if "multilabel" not in settings:
            why = (
                "some images hold several labels or none"
                if facts.multilabel
                else "every image holds one label"
            )
            found.append(("multilabel", facts.multilabel, why))
        if settings.get("class_weights", "auto") == "auto":
            found.append(("class_weights", *_balance(truths, classes, facts.multilabel)))
        if settings.get("reads", "auto") == "auto":
            found.append(("reads", *_reading(len(truths), facts.closed_form)))
        return found

    def head(self, backbone: Backbone) -> nn.Module:
        widths = backbone.map_widths if Provides.MAPS in self.needs else ()
        return LinearHead(backbone.width, widths, len(self.classes), self.settings.dropout)

    def encode(self, truth: Labels, size: tuple[int, int]) -> TargetTensors:
        """(K,) float32: 1 for the classes that hold."""
        places = [self.classes.index(name) for name in truth.names if name in self.classes]
        return {
            "labels": torch.zeros(len(self.classes)).index_fill_(
                0, torch.tensor(places, dtype=torch.int64), 1.0
            )
        }

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        targets = torch.stack([target["labels"] for target in batch.targets])
        output = output.float()  # validation computes the loss outside of autocast
        losses = (
            self._by_label(output, targets)
            if self.settings.multilabel
            else self._by_image(output, targets)
        )
        return {"loss": losses.mean()}

    def decode(self, output: Tensor, batch: Batch | None) -> list[Labels]:
        scores = output.float().sigmoid() if self.settings.multilabel else output.float().softmax(1)
        return [Labels(self._names(row), row.cpu().numpy()) for row in scores]

    def export_outputs(self, backbone: Backbone, head: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """scores (B, K), and pooled (B, D)."""
        features = backbone(images, self.needs | {Provides.POOLED})
        assert features.pooled is not None
        logits = head(features)
        return {
            "scores": logits.sigmoid() if self.settings.multilabel else logits.softmax(1),
            "pooled": features.pooled,
        }

    def explainable_scores(self, output: Tensor, batch: Batch) -> list[ExplainableScore]:
        """Why each class that was answered: the surest alone, where one holds."""
        scores = self.decode(output, batch)[0]
        names = scores.names if self.settings.multilabel else scores.names[:1]
        return [self._question(name) for name in names]

    def _question(self, name: str) -> ExplainableScore:
        place = self.classes.index(name)

        def chance(found: Tensor) -> Tensor:
            return (
                found.float().sigmoid() if self.settings.multilabel else found.float().softmax(1)
            )[:, place]

        return ExplainableScore(name, lambda found: found[:, place].float(), chance)

    def _names(self, scores: Tensor) -> tuple[str, ...]:
        if self.settings.multilabel:
            return tuple(
                name
                for name, score in zip(self.classes, scores.tolist(), strict=True)
                if score >= 0.5
            )
        return (self.classes[int(scores.argmax())],)

    def _weights(self, output: Tensor) -> Tensor:
        given = self.settings.class_weights
        return (
            output.new_ones(len(self.classes))
            if isinstance(given, str)
            else output.new_tensor(given)
        )

    def _by_image(self, output: Tensor, targets: Tensor) -> Tensor:
        """(B,) cross entropy against soft targets; the class weight of an image is that of its (mixed) true classes."""
        smooth = self.settings.smoothing
        spread = targets * (1 - smooth) + smooth / targets.shape[1]
        chances = output.log_softmax(1)
        losses = -(spread * chances).sum(1)
        if self.settings.loss == "focal":
            losses = losses * (1 - (targets * chances.exp()).sum(1)) ** self.settings.gamma
        return losses * (targets @ self._weights(output))

    def _by_label(self, output: Tensor, targets: Tensor) -> Tensor:
        """(B, K) binary cross entropy; a positive label counts by its class weight."""
        losses = functional.binary_cross_entropy_with_logits(
            output, targets, reduction="none", pos_weight=self._weights(output)
        )
        if self.settings.loss == "focal":
            sure = torch.where(targets > 0.5, output.sigmoid(), 1 - output.sigmoid())
            losses = losses * (1 - sure) ** self.settings.gamma
        return losses


def _reading(images: int, solved: bool) -> tuple[str, str]:
    """A head that was solved on maps of every depth is lost as soon as these move; so what is trained reads the end alone."""
    if not solved:
        return "pooled", "the backbone moves: only its end is trained to be read"
    if images > _FEW:
        return "pooled", f"{images} images are many: the pooled vector will do"
    return "maps", f"{images} images are few: maps of every depth say more"


def _balance(
    truths: Sequence[Labels], classes: tuple[str, ...], multilabel: bool
) -> tuple[list[float] | str, str]:
    """Weights inverse to frequency (at most 10), with mean 1 over the images; 'none' where the classes are about as large."""
    counts = Counter(name for truth in truths for name in truth.names)
    sizes = [counts[name] for name in classes]
    if multilabel or min(sizes) == 0 or max(sizes) < _UNBALANCED * min(sizes):
        return (
            "none",
            "multi-label"
            if multilabel
            else f"the classes hold {min(sizes)} to {max(sizes)} images",
        )
    raw = [min(10.0, sum(sizes) / (len(sizes) * size)) for size in sizes]
    mean = sum(weight * size for weight, size in zip(raw, sizes, strict=True)) / sum(sizes)
    return [
        round(weight / mean, 4) for weight in raw
    ], f"unbalanced: the classes hold {min(sizes)} to {max(sizes)} images"
