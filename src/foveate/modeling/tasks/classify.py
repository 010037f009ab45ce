"""Classification of images, by one class or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from foveate.errors import UnknownName, UsageError
from foveate.messages import Message
from foveate.modeling.backbones import Backbone
from foveate.modeling.tasks import DataFacts, ExplainableScore, Task, TaskSettings
from foveate.modeling.tasks._linear import LinearHead, choose_features, needed_features
from foveate.modeling.tasks._positive import choose_positive
from foveate.predictions import Labels
from foveate.types import Batch, Decision, Provides, TargetTensors

_IMBALANCE = 2.0  # largest class over smallest, from which classes are weighted
_MAX_WEIGHT = 10.0


class ClassifySettings(TaskSettings):
    """Settings of the task."""

    multilabel: bool = Field(
        False, description="whether images may have several classes; default: as the labels do"
    )
    loss: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy", description="loss function; focal: Lin et al. 2017"
    )
    gamma: float = Field(2.0, ge=0, description="focusing parameter of the focal loss")
    smoothing: float = Field(
        0.1, ge=0, lt=1, description="label smoothing (Szegedy et al. 2016); not for multi-label"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the head")
    features: Literal["auto", "pooled", "maps"] = Field(
        "auto",
        description="input of the head: the pooled vector, or maps of every depth as well; auto: "
        "maps for up to 2,000 images and a head in closed form",
    )
    class_weights: list[float] | Literal["auto", "none"] = Field(
        "auto",
        description="weight of each class in the loss; auto: inverse frequency where class sizes "
        "differ twofold",
    )
    positive: str = Field(
        "",
        description="the positive one of two classes; default: by the names (normal, healthy, no_* "
        "and the like are negative), else the second",
    )
    at_sensitivity: float | None = Field(
        None,
        gt=0,
        le=1,
        description="least sensitivity of two classes: its threshold is chosen on the validation "
        "images and reported on the others",
    )
    at_specificity: float | None = Field(
        None, gt=0, le=1, description="the same by the least specificity; instead of at_sensitivity"
    )


class Classify(Task):
    """Classification of images."""

    prediction_type: ClassVar[type[Labels]] = Labels
    question: ClassVar[Message] = Message(
        "task.classify.question", "Which class does an image belong to?"
    )
    default_overrides: ClassVar[dict[str, Any]] = {"tuning": "probe"}
    Settings: ClassVar[type[TaskSettings]] = ClassifySettings
    step_settings: ClassVar[frozenset[str]] = frozenset(
        ("loss", "gamma", "smoothing", "dropout", "class_weights")
    )

    settings: ClassifySettings

    @property
    def needs(self) -> frozenset[Provides]:  # type: ignore[override]
        return needed_features(self.settings.features)

    @classmethod
    def resolve_settings(
        cls,
        settings: dict[str, Any],
        targets: Sequence[Any],
        classes: tuple[str, ...],
        facts: DataFacts,
    ) -> list[Decision]:
        decisions: list[Decision] = []
        if "multilabel" not in settings:
            reason = Message("choice.one_label", "every image has one label")
            if facts.multilabel:
                text = "some images have several labels or none"
                reason = Message("choice.several_labels", text)
            decisions.append(Decision("multilabel", facts.multilabel, reason))
        if settings.get("class_weights", "auto") == "auto":
            decisions.append(_choose_class_weights(targets, classes, facts))
        if settings.get("features", "auto") == "auto":
            decisions.append(choose_features(len(targets), facts.closed_form))
        multilabel = settings.get("multilabel", facts.multilabel)
        return decisions + _resolve_positive(settings, classes, multilabel)

    def metric_settings(self, head: nn.Module) -> dict[str, Any]:
        """Return the positive class, if there are two."""
        return {"positive": self.settings.positive}

    def head(self, backbone: Backbone) -> nn.Module:
        map_widths = backbone.map_widths if Provides.MAPS in self.needs else ()
        return LinearHead(backbone.width, map_widths, len(self.classes), self.settings.dropout)

    def encode(self, target: Labels, size: tuple[int, int]) -> TargetTensors:
        """Return labels, (K,) float32: 1 for the classes of the image."""
        indices = [self.classes.index(name) for name in target.names if name in self.classes]
        labels = torch.zeros(len(self.classes))
        labels[torch.tensor(indices, dtype=torch.int64)] = 1.0
        return {"labels": labels}

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        targets = torch.stack([target["labels"] for target in batch.targets])
        output = output.float()  # validation computes the loss outside of autocast
        losses = (
            self._binary_losses(output, targets)
            if self.settings.multilabel
            else self._categorical_losses(output, targets)
        )
        return {"loss": losses.mean()}

    def decode(self, output: Tensor, batch: Batch | None) -> list[Labels]:
        scores = self._probabilities(output.float())
        return [Labels(self._names(row), row.cpu().numpy()) for row in scores]

    def export_outputs(
        self, backbone: Backbone, head: nn.Module, images: Tensor
    ) -> dict[str, Tensor]:
        """Return scores (B, K) and pooled (B, D)."""
        features = backbone(images, self.needs | {Provides.POOLED})
        assert features.pooled is not None
        return {"scores": self._probabilities(head(features)), "pooled": features.pooled}

    def explainable_scores(self, output: Tensor, batch: Batch) -> list[ExplainableScore]:
        """Return the score of each predicted class."""
        prediction = self.decode(output, batch)[0]
        return [self._explainable_score(name) for name in prediction.names]

    def _explainable_score(self, name: str) -> ExplainableScore:
        index = self.classes.index(name)
        return ExplainableScore(
            name,
            lambda output: output[:, index].float(),
            lambda output: self._probabilities(output.float())[:, index],
        )

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.settings.multilabel else logits.softmax(1)

    def _names(self, scores: Tensor) -> tuple[str, ...]:
        """The predicted classes: those from 0.5 on for multi-label, otherwise the best one."""
        if self.settings.multilabel:
            pairs = zip(self.classes, scores.tolist(), strict=True)
            return tuple(name for name, score in pairs if score >= 0.5)
        return (self.classes[int(scores.argmax())],)

    def _class_weights(self, output: Tensor) -> Tensor:
        weights = self.settings.class_weights
        if isinstance(weights, str):
            return output.new_ones(len(self.classes))
        return output.new_tensor(weights)

    def _categorical_losses(self, output: Tensor, targets: Tensor) -> Tensor:
        """(B,) cross entropy with soft targets, weighted by the (mixed) true classes."""
        smoothing = self.settings.smoothing
        soft = targets * (1 - smoothing) + smoothing / targets.shape[1]
        log_probabilities = output.log_softmax(1)
        losses = -(soft * log_probabilities).sum(1)
        if self.settings.loss == "focal":
            true = (targets * log_probabilities.exp()).sum(1)
            losses = losses * (1 - true) ** self.settings.gamma
        return losses * (targets @ self._class_weights(output))

    def _binary_losses(self, output: Tensor, targets: Tensor) -> Tensor:
        """(B, K) binary cross entropy; positive labels are weighted by class."""
        losses = functional.binary_cross_entropy_with_logits(
            output, targets, reduction="none", pos_weight=self._class_weights(output)
        )
        if self.settings.loss == "focal":
            true = torch.where(targets > 0.5, output.sigmoid(), 1 - output.sigmoid())
            losses = losses * (1 - true) ** self.settings.gamma
        return losses


def _resolve_positive(
    settings: dict[str, Any], classes: tuple[str, ...], multilabel: bool
) -> list[Decision]:
    """Choose or check the positive class.

    Raises:
        UsageError: A setting needs two classes, or excludes another one.
        UnknownName: There is no class of the name.
    """
    goals = [name for name in ("at_sensitivity", "at_specificity") if settings.get(name)]
    stated = settings.get("positive", "")
    if len(classes) != 2 or multilabel:
        if goals:
            raise UsageError(
                "a threshold needs two classes, of which each image has one",
                where=f"task.{goals[0]}",
                why=f"there are {len(classes)} classes",
                hint="leave it out, or merge the classes into two with data.classes",
            )
        text = "there are {count:class|classes}, and a positive one needs two"
        reason = Message("choice.not_two_classes", text, count=len(classes))
        return [Decision("positive", "", reason)] if stated else []
    if len(goals) == 2:
        hint = "state one of the two: the threshold that reaches it decides on the other"
        raise UsageError("one threshold cannot be chosen by both", where="task", hint=hint)
    if not stated:
        return [choose_positive(classes)]
    if stated not in classes:
        raise UnknownName(stated, classes, kind="class", where="task.positive")
    return []


def _choose_class_weights(
    targets: Sequence[Labels], classes: tuple[str, ...], facts: DataFacts
) -> Decision:
    """Weights inverse to frequency, at most 10, with mean 1 over the images; 'none' if balanced."""
    if facts.multilabel:
        return Decision("class_weights", "none", Message("choice.multilabel", "multi-label"))
    if facts.closed_form:
        why = Message("choice.images_count_alike", "all images count alike in the closed form")
        return Decision("class_weights", "none", why)
    counts = Counter(name for target in targets for name in target.names)
    sizes = [counts[name] for name in classes]
    text = "{least} to {most:image|images} per class"
    range_ = Message("choice.class_sizes", text, least=min(sizes), most=max(sizes))
    if min(sizes) == max(sizes):
        text = "{images:image|images} in each class"
        range_ = Message("choice.equal_sizes", text, images=sizes[0])
    if min(sizes) == 0 or max(sizes) < _IMBALANCE * min(sizes):
        return Decision("class_weights", "none", range_)
    raw = [min(_MAX_WEIGHT, sum(sizes) / (len(sizes) * size)) for size in sizes]
    mean = sum(weight * size for weight, size in zip(raw, sizes, strict=True)) / sum(sizes)
    weights = [round(weight / mean, 4) for weight in raw]
    reason = Message("choice.unbalanced", "unbalanced classes: {sizes}", sizes=range_)
    return Decision("class_weights", weights, reason)
