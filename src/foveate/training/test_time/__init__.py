"""Ways to adapt a finished network to images from elsewhere that nobody has labelled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import nn

from foveate.registry import Registry
from foveate.types import Batch

Feed = Callable[[int], Iterator[Batch]]
"""Epoch -> all images once, in batches on the network's device, in an order of that epoch's own."""


class TestTimeSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TestTimeMethod(ABC):
    """One way; it never sees a label of the new images.

    `needs_classes`: whether it can only work where the network answers with one class an image.
    """

    needs_classes: ClassVar[bool] = False
    Settings: ClassVar[type[TestTimeSettings]] = TestTimeSettings

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def passes(self) -> tuple[int, int]:
        """How often it looks at all home images, and at all new ones."""

    @abstractmethod
    def adapt(self, network: nn.Module, source: Feed, target: Feed) -> None:
        """Changes tensors of the network, which is called with a Batch, in place; it is in eval mode before and after.

        `home`: the images that it was trained on; `away`: the new ones. Raises UsageError where it has nothing that this way can
        change.
        """


TEST_TIME_METHODS: Registry[TestTimeMethod] = Registry(
    "foveate.training.test_time", TestTimeMethod, "adaptation", "adaptations"
)
