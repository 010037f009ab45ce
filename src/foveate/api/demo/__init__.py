"""demo: the whole workflow on data and weights that come with the installation."""

from typing import TYPE_CHECKING

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, as_path

if TYPE_CHECKING:
    from foveate.api.demo.core import DemoResult


@entry_point
def demo(out: PathLike | None = None) -> "DemoResult":
    """Fit, evaluate and predict on bundled data, without a network.

    A probe is fitted to scikit-learn's handwritten digits on an EfficientNet-Lite0 with ImageNet
    weights.

    Args:
        out: Folder to create. Default: foveate-demo.

    Raises:
        MissingExtra: The extra 'offline', which brings the weights, is not installed.
    """
    from foveate.api.demo.core import run_demo

    return run_demo(as_path(out))
