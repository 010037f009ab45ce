"""restyle CONTENT STYLE: neural style transfer."""

from typing import TYPE_CHECKING

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, require_exists, to_path

if TYPE_CHECKING:
    from foveate.api.restyle.core import RestyleResult


@entry_point
def restyle(
    content: PathLike,
    style: PathLike,
    *,
    out: PathLike = "restyled.png",
    backbone: str = "tf_efficientnet_lite0",
    weights: str = "auto",
    size: int = 256,
    steps: int = 300,
    style_weight: float = 100.0,
    device: str = "auto",
) -> "RestyleResult":
    """Render one image in the style of another (neural style transfer).

    A second file, NAME-comparison.png, shows content, style and result side by side.

    Args:
        content: Image whose content is kept.
        style: Image whose style is taken.
        out: PNG file to write.
        backbone: Backbone whose features are compared.
        weights: Weights of the backbone: auto, hub, offline or a file.
        size: Longer side of the result, px.
        steps: Optimization steps.
        style_weight: Weight of the style loss, relative to the content loss.
        device: Compute device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        UsageError: A file exists already, or the backbone has no feature maps.
        BrokenImage: An input is not a readable image.
    """
    from foveate.api.restyle.core import Transfer, open_backbone, output_files, restyle_image

    images = [require_exists(to_path(each)) for each in (content, style)]
    transfer = Transfer(images[0], images[1], size, steps, style_weight)
    files = output_files(to_path(out))
    network = open_backbone(backbone, weights, device)
    return restyle_image(transfer, network, backbone, files)
