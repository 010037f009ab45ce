"""The models behind the server: runs and exported files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.deploy.runtime import open_exported
from foveate.errors import UsageError
from foveate.inference.protocol import ImagePredictor

if TYPE_CHECKING:
    from foveate.inference.predictor import Predictor

_EPSILON = 1e-12


class Engine:
    """A model that the server predicts with.

    Args:
        name: Its name in URLs.
        predictor: A run or an exported file.

    Attributes:
        classes: Class names, in the order of the scores.
        metadata: What clients may know about it, as JSON values.
    """

    def __init__(self, name: str, predictor: ImagePredictor[Any]) -> None:
        self.name, self.predictor, self.classes = name, predictor, predictor.classes
        self.metadata = {**predictor.info, "explains": False}

    def decode(self, content: bytes) -> Any:
        """Decode and preprocess an image; several threads may call it at once.

        Raises:
            BrokenImage: The image cannot be decoded.
        """
        return self.predictor.decode(content)

    def predict(self, images: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the prediction of each decoded image, as JSON values."""
        return [
            prediction.row(self.classes, self.predictor.multilabel)
            for prediction in self.predictor.predict_decoded(images)
        ]

    def explain(self, content: bytes) -> dict[str, Any]:
        """Return the evidence for the prediction of an image, as JSON values.

        Returns:
            `label`, what the map explains; `method`, how it was computed; `map`, (h, w) in
            [0, 1]; `view`, the rectangle (x0, y0, x1, y1) of the upright image that the map
            covers, px; of an object also its `box`, px.

        Raises:
            BrokenImage: The image cannot be decoded.
            UsageError: The prediction cannot be explained, or nothing is predicted.
        """
        raise UsageError(
            "predictions of this model cannot be explained", hint="serve a run that classifies"
        )


class RunEngine(Engine):
    """A run, whose predictions can be explained as well."""

    predictor: Predictor

    def __init__(self, name: str, predictor: Predictor) -> None:
        super().__init__(name, predictor)
        self.metadata["explains"] = predictor.info["task"] == "classify"

    def explain(self, content: bytes) -> dict[str, Any]:
        from foveate.explainability.faithfulness import ExplainTarget
        from foveate.explainability.methods import DEFAULT_EXPLAINER, EXPLAINERS
        from foveate.inference.predictor import DecodedImage
        from foveate.types import Sample

        target = ExplainTarget.from_sample(self.predictor, Sample(DecodedImage(content), "image"))
        scores = target.explainable_scores()
        if not scores:
            raise UsageError("there is nothing to explain in this prediction")
        heatmap = EXPLAINERS.get(DEFAULT_EXPLAINER)().explain(target.request(scores[0]))
        heatmap = heatmap.detach().float().cpu()
        scaled = (heatmap / heatmap.max().clamp(min=_EPSILON)).double().numpy().round(3)
        box = target.box(scores[0])
        return {
            **({} if box is None else {"box": list(box)}),
            "label": scores[0].name,
            "method": DEFAULT_EXPLAINER,
            "map": scaled.tolist(),
            "view": target.batch.views[0].tolist(),
        }


def load_engines(paths: Sequence[Path], device: str) -> dict[str, Engine]:
    """Load run folders and exported files.

    Returns:
        Engines by name: that of the run folder, or of the file without its ending.

    Raises:
        UsageError: Two of them have the same name.
    """
    names = [path.resolve().stem if path.is_file() else path.resolve().name for path in paths]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UsageError(
                f"two models have the name {name!r}",
                where=paths[index],
                hint="rename one of the files or folders",
            )
    runs = [path for path in paths if not path.is_file()]
    predictors = dict(zip(runs, _load_runs(runs, device), strict=True))
    return {
        name: RunEngine(name, predictors[path])
        if path in predictors
        else Engine(name, open_exported(path))
        for name, path in zip(names, paths, strict=True)
    }


def _load_runs(runs: list[Path], device: str) -> list[Predictor]:
    if not runs:  # exported files need no torch
        return []
    from foveate.serving.weight_sharing import load_predictors

    return load_predictors(runs, device)
