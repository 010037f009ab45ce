"""Test-time adaptation: a finished network is adapted to unlabeled images of another domain."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import nn

from foveate.registry import Registry
from foveate.types import Batch

Feed = Callable[[int], Iterator[Batch]]
"""Epoch -> all images once, in batches on the device of the network, in an order of that epoch."""


class TestTimeSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TestTimeMethod(ABC):
    """A method of test-time adaptation; it never sees a label of the new images.

    Attributes:
        needs_classes: whether it only works for networks that predict one class per image.
    """

    needs_classes: ClassVar[bool] = False
    Settings: ClassVar[type[TestTimeSettings]] = TestTimeSettings

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def passes(self) -> tuple[int, int]:
        """Number of passes over the source images, and over the target images."""

    @abstractmethod
    def adapt(self, network: nn.Module, source: Feed, target: Feed) -> None:
        """Change tensors of the network in place.

        Args:
            network: Called with a Batch; in eval mode before and after.
            source: The images that it was trained on.
            target: The new images.

        Raises:
            UsageError: The network has nothing that this method can change.
        """


TEST_TIME_METHODS: Registry[TestTimeMethod] = Registry(
    "foveate.training.test_time", TestTimeMethod, "adaptation", "adaptations"
)
