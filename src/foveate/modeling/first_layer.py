"""The first layer of a network that was trained on red, green and blue, for other channels."""

from __future__ import annotations

from timm.models import adapt_input_conv
from torch import nn

_COLORS = 3


def widen_first_layers(network: nn.Module, channels: int) -> bool:
    """Make the convolutions that read colors read other channels.

    The weights are repeated over the channels and scaled by 3 / channels, as in timm.

    Args:
        network: The network; it is changed.
        channels: Number of channels.

    Returns:
        Whether there is such a layer. Networks with several stems have several.
    """
    convolutions = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == _COLORS and module.groups == 1
    ]
    for convolution in convolutions:
        weight = adapt_input_conv(channels, convolution.weight.detach())
        convolution.weight = nn.Parameter(weight, requires_grad=convolution.weight.requires_grad)
        convolution.in_channels = channels
    return bool(convolutions)
