"""Adaptive batch normalisation (AdaBN, Li et al. 2016, "Revisiting Batch Normalization For Practical Domain Adaptation").

The network stays as it is, but its normalisations take their means and variances from the new images.

Few images say little about them: statistics of n images count n / (n + prior), those of home the rest (Schneider et al. 2020,
"Improving robustness against common corruptions by covariate shift adaptation", equation 2, which mixes variances linearly).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import nn

from foveate.errors import UsageError
from foveate.training.test_time import Feed, TestTimeMethod, TestTimeSettings
from foveate.training.test_time._statistics import align, measure_moments, norms_with_statistics


class AdaBNSettings(TestTimeSettings):
    prior: float = Field(16, ge=0, description="images that the statistics of home count as")


class AdaBN(TestTimeMethod):
    Settings: ClassVar[type[TestTimeSettings]] = AdaBNSettings

    settings: AdaBNSettings
    passes = (1, 1)

    def adapt(self, network: nn.Module, home: Feed, away: Feed) -> None:
        if not norms_with_statistics(network):
            why = "its normalisations look at one image at a time, as those of Transformers do"
            raise UsageError(
                "this network holds no statistics that could be measured anew",
                why=why,
                hint="--method tent",
            )
        align_statistics(network, home, away, self.settings.prior)


def align_statistics(network: nn.Module, home: Feed, away: Feed, prior: float) -> None:
    """Moves all statistics towards those of the images away."""
    at_home = measure_moments(network, home(0))
    found = measure_moments(network, away(0), like=at_home)
    count = next(iter(found.values())).count
    align(network, at_home, found, count / (count + prior))
