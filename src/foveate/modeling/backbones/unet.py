"""Small U-Nets for images of your own, trained from random weights by flow matching.

Lipman et al. 2023 (flow matching), Liu et al. 2023 (rectified flow).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foveate.errors import UnknownName, UsageError, require_packages
from foveate.modeling.backbones import Conditioning, DiffusionBackbone, Family, ModelInfo
from foveate.modeling.backbones._common import parameter_count
from foveate.modeling.weights import load_into, read_tensors
from foveate.types import InputSpec, Provides

_CHANNELS = {"unet_small": 32, "unet_base": 64, "unet_large": 128}
_DEFAULT_SIZE = 32  # px
_CONDITIONING_WIDTH = 128
_COARSEST = 8  # px of the coarsest maps
_CROSS_ATTENTION = 8  # px of the finest maps that attend to the conditioning
# of unet_small; wider ones need less, as Adam's steps add up over the width (Yang et al. 2022)
_LEARNING_RATE = 1e-3
_TIME_SCALE = 1000.0  # of times as diffusers embeds them


class FlowUNetFamily(Family):
    """U-Nets of three widths."""

    summary: ClassVar[str] = "small U-Nets that generate images, trained from random weights"

    def names(self) -> list[str]:
        return list(_CHANNELS) if find_spec("diffusers") else []

    def knows(self, name: str) -> bool:
        return name in _CHANNELS

    def default_overrides(self, name: str, tuning: str) -> dict[str, Any]:
        """Half of the rate at which the small one learns fastest: 1.5 times its width diverged."""
        return {"training.lr": _LEARNING_RATE * _CHANNELS["unet_small"] / _CHANNELS[name]}

    def info(self, name: str) -> ModelInfo:
        with torch.device("meta"):
            count = parameter_count(_build(name, _DEFAULT_SIZE))
        return ModelInfo(
            name, count, "Apache-2.0", _DEFAULT_SIZE, (Provides.NOISE.value,), offline=True
        )

    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> DiffusionBackbone:
        if name not in _CHANNELS:
            raise UnknownName(name, list(_CHANNELS), kind="backbone", where="backbone.name")
        side = size or _DEFAULT_SIZE
        network = _build(name, side)
        if weights in ("auto", "none", "offline", "hub"):  # nothing is published for it
            return FlowUNet(network, side, "random: U-Nets have no pretrained weights")
        file = Path(weights).expanduser()
        load_into(network, read_tensors(file), file)
        return FlowUNet(network, side, f"file: {file.name}")


class FlowUNet(DiffusionBackbone):
    """A U-Net that predicts the velocity: noise and image lie on a straight line.

    Its output is noise - image.

    Args:
        network: A UNet2DConditionModel of diffusers.
        size: Side of the images, px; it denoises pixels, not latents.
        origin: Where the weights come from.
    """

    encodes_text = False
    conditioning_width = _CONDITIONING_WIDTH

    def __init__(self, network: Any, size: int, origin: str) -> None:
        super().__init__()
        self.network, self.origin, self.provides = network, origin, frozenset({Provides.NOISE})
        self.input = InputSpec(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.latent_shape = (3, size, size)
        self.width, self.token_width, self.map_widths, self.map_strides = 0, 0, (), ()

    def blocks(self) -> list[nn.Module]:
        return list(self.network.children())

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, clean: Tensor) -> Tensor:
        return clean.clamp(-1, 1)

    def sample_times(self, count: int) -> Tensor:
        """Draw times in the middle more often, where the task is hardest.

        Logit-normal with mean 0 and deviation 1 (Esser et al. 2024, section 3.1).
        """
        return torch.randn(count).sigmoid()

    def add_noise(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        return clean + _broadcast(time) * (noise - clean)

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        return noise - clean

    def denoise(self, noisy: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        embeddings = conditioning.embeddings
        weights = conditioning.mask[..., None].to(embeddings)
        mean = (embeddings * weights).sum(1) / weights.sum(1).clamp(min=1)
        output: Tensor = self.network(
            noisy,
            _TIME_SCALE * time,
            embeddings,
            class_labels=mean,
            encoder_attention_mask=conditioning.mask,
        ).sample
        return output

    def predict_x0_eps(self, noisy: Tensor, output: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        return noisy - _broadcast(time) * output, noisy + (1 - _broadcast(time)) * output

    def enable_checkpointing(self) -> None:
        self.network.enable_gradient_checkpointing()


def _broadcast(time: Tensor) -> Tensor:
    return time[:, None, None, None]


def _build(name: str, size: int) -> Any:
    """A U-Net that halves its maps down to 8 px.

    Raises:
        UsageError: The size cannot be halved so often.
    """
    require_packages("generate", "diffusers")
    from diffusers import UNet2DConditionModel

    sides = [size]
    while sides[-1] // 2 >= _COARSEST:
        sides.append(sides[-1] // 2)
    step = 2 ** (len(sides) - 1)
    if size % step:
        raise UsageError(
            f"the input size of this backbone must be a multiple of {step} px, got {size}",
            where="backbone.size",
            hint=f"--size {size // step * step} or {-(-size // step) * step}",
        )
    channels = [_CHANNELS[name] * min(4, 2**level) for level in range(len(sides))]
    attends = [side <= _CROSS_ATTENTION for side in sides]
    down = ["CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attends]
    up = ["CrossAttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attends)]
    return UNet2DConditionModel(  # type: ignore[no-untyped-call]
        sample_size=size,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=_CONDITIONING_WIDTH,
        attention_head_dim=_CHANNELS[name] // 4,
        norm_num_groups=8,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=_CONDITIONING_WIDTH,
    )
