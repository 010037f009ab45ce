"""Test-time entropy minimization (TENT, Wang et al. 2021, equation 1).

Statistics come from the new images; then scales and shifts of the normalization layers are trained
until the predictions are more confident.

Here all new images are at hand, so that their statistics are measured once, over all of them, and
stay fixed while scales and shifts are trained; in the paper's stream, each batch has only itself.
More confident does not mean more accurate: with too many steps, all images get the same prediction.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from foveate.errors import UsageError
from foveate.training.test_time import Feed, TestTimeMethod
from foveate.training.test_time._statistics import norms_with_statistics
from foveate.training.test_time.adabn import AdaBNSettings, align_statistics

_WITHOUT_STATISTICS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class TentSettings(AdaBNSettings):
    lr: float = Field(1e-4, gt=0, description="learning rate of Adam for scales and shifts")
    epochs: int = Field(3, ge=1, description="passes over the new images")


class Tent(TestTimeMethod):
    needs_classes = True
    Settings: ClassVar[type[TentSettings]] = TentSettings

    settings: TentSettings

    @property
    def passes(self) -> tuple[int, int]:
        return 1, 1 + self.settings.epochs

    def adapt(self, network: nn.Module, source: Feed, target: Feed) -> None:
        parameters = _scales_and_shifts(network)
        if not parameters:
            raise UsageError(
                "this network has no normalization layer with a trainable scale and shift"
            )
        if norms_with_statistics(network):
            align_statistics(network, source, target, self.settings.prior)
        network.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.Adam(parameters, lr=self.settings.lr)
        for epoch in range(self.settings.epochs):
            for batch in target(epoch):
                optimizer.zero_grad()
                entropy(network(batch)).mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        network.requires_grad_(False)


def _scales_and_shifts(network: nn.Module) -> list[nn.Parameter]:
    layers = [
        *norms_with_statistics(network).values(),
        *(module for module in network.modules() if isinstance(module, _WITHOUT_STATISTICS)),
    ]
    return [parameter for layer in layers for parameter in layer.parameters(recurse=False)]


def entropy(logits: Tensor) -> Tensor:
    """(B, K) -> (B,), in nats."""
    log_probabilities = logits.float().log_softmax(1)
    return -(log_probabilities.exp() * log_probabilities).sum(1)
