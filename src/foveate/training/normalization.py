"""The mean and deviation of bands that no backbone was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foveate.data.image_cache import ImageCache
from foveate.data.value_range import spread_samples
from foveate.images.pixels import as_network_input
from foveate.messages import Message
from foveate.modeling.model import Model
from foveate.recipe import DataRecipe
from foveate.types import Decision, Sample

_MEASURED = 1000  # images, evenly spread
_DIGITS = 5
_MIN_STD = 1e-3  # of a band that is the same everywhere


def measure_normalization(
    model: Model, samples: Sequence[Sample], cache: ImageCache, recipe: DataRecipe
) -> list[Decision]:
    """Measure how to normalize other channels than red, green and blue, and do so from now on.

    Args:
        model: The model; the normalization of its input is changed.
        samples: Training images, which can be read.
        cache: Decodes them.
        recipe: States what the user has set.

    Returns:
        Decisions on data.mean and data.std; none for three channels, or where both are set.
    """
    spec = model.backbone.input
    stated = {"mean": recipe.mean, "std": recipe.std}
    if spec.channels == 3 or all(stated.values()) or not samples:
        return []
    parts = [
        as_network_input(cache.read(sample.path)[0]).reshape(-1, spec.channels).astype(np.float64)
        for sample in spread_samples(samples, _MEASURED)
    ]
    means = np.stack([part.mean(0) for part in parts]) / 255
    squares = np.stack([(part**2).mean(0) for part in parts]) / 255**2
    mean = means.mean(0)
    std = np.sqrt((squares.mean(0) - mean**2).clip(0)).clip(_MIN_STD)
    measured = {
        name: values.round(_DIGITS).tolist()
        for name, values in (("mean", mean), ("std", std))
        if not stated[name]
    }
    model.backbone.input = spec.normalizing(measured.get("mean", ()), measured.get("std", ()))
    why = Message(
        "choice.measured_normalization",
        "measured on {images:training image|training images}",
        images=len(parts),
    )
    return [Decision(f"data.{name}", values, why) for name, values in measured.items()]
