"""Fully test-time adaptation by entropy minimisation (TENT, Wang et al. 2021, equation 1).

Statistics come from the new images, and then scales and shifts of the normalisations are trained until the answers are surer.

Here all new images are at hand, so that their statistics are measured once, over all of them, and stand still while scales and
shifts move; the paper's stream of batches has only each batch to measure. Surer is not righter: too many steps, and every image is
answered alike.
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

_PLAIN = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class TentSettings(AdaBNSettings):
    lr: float = Field(1e-4, gt=0, description="learning rate of Adam, on scales and shifts")
    epochs: int = Field(3, ge=1, description="passes over the new images")


class Tent(TestTimeMethod):
    needs_classes = True
    Settings: ClassVar[type[TentSettings]] = TentSettings

    settings: TentSettings

    @property
    def passes(self) -> tuple[int, int]:
        return 1, 1 + self.settings.epochs

    def adapt(self, network: nn.Module, home: Feed, away: Feed) -> None:
        moving = list(_scales_and_shifts(network))
        if not moving:
            raise UsageError(
                "this network has no normalisation with a scale and a shift that could be trained"
            )
        if norms_with_statistics(network):
            align_statistics(network, home, away, self.settings.prior)
        network.requires_grad_(False)
        for parameter in moving:
            parameter.requires_grad_(True)
        optimizer = torch.optim.Adam(moving, lr=self.settings.lr)
        for epoch in range(self.settings.epochs):
            for batch in away(epoch):
                optimizer.zero_grad()
                entropy(network(batch)).mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        network.requires_grad_(False)


def _scales_and_shifts(network: nn.Module) -> list[nn.Parameter]:
    live = [
        *norms_with_statistics(network).values(),
        *(module for module in network.modules() if isinstance(module, _PLAIN)),
    ]
    return [parameter for module in live for parameter in module.parameters(recurse=False)]


def entropy(logits: Tensor) -> Tensor:
    """(B, K) -> (B,), in nats."""
    chances = logits.float().log_softmax(1)
    return -(chances.exp() * chances).sum(1)
