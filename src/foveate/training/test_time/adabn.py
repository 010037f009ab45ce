"""Adaptive batch normalization (AdaBN, Li et al. 2016).

"Revisiting Batch Normalization For Practical Domain Adaptation": the weights stay as they are, but
normalization layers take their means and variances from the new images.

Few images say little about them: statistics of n images count n / (n + prior), those of the source
images the rest (Schneider et al. 2020, "Improving robustness against common corruptions by
covariate shift adaptation", equation 2, which mixes variances linearly).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import nn

from foveate.errors import UsageError
from foveate.training.test_time import Feed, TestTimeMethod, TestTimeSettings
from foveate.training.test_time._statistics import align, measure_moments, norms_with_statistics


class AdaBNSettings(TestTimeSettings):
    prior: float = Field(
        16, ge=0, description="number of images that the source statistics count as"
    )


class AdaBN(TestTimeMethod):
    Settings: ClassVar[type[TestTimeSettings]] = AdaBNSettings

    settings: AdaBNSettings
    passes = (1, 1)

    def adapt(self, network: nn.Module, source: Feed, target: Feed) -> None:
        if not norms_with_statistics(network):
            raise UsageError(
                "this network has no running statistics to adapt",
                why="its normalization layers look at one image at a time, as in Transformers",
                hint="--method tent",
            )
        align_statistics(network, source, target, self.settings.prior)


def align_statistics(network: nn.Module, source: Feed, target: Feed, prior: float) -> None:
    """Move all running statistics towards those of the target images."""
    source_moments = measure_moments(network, source(0))
    target_moments = measure_moments(network, target(0), like=source_moments)
    count = next(iter(target_moments.values())).count
    align(network, source_moments, target_moments, count / (count + prior))
