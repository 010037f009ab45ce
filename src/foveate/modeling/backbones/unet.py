"""Small U-Nets that learn to paint from nothing, by flow matching (Lipman et al. 2023; Liu et al. 2023, rectified flow)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foveate.errors import UnknownName, UsageError, need
from foveate.modeling.backbones import Conditioning, DiffusionBackbone, Family, ModelInfo
from foveate.modeling.weights import load_into, read_tensors
from foveate.types import InputSpec, Provides

_CHANNELS = {"painter_small": 32, "painter_base": 64, "painter_large": 128}
_SIZE = 32  # px, where none is asked for
_SAID = 128  # width of a word
_COARSEST = 8  # px of the coarsest maps
_LOOKS = 8  # px of the finest maps in which words are looked at
_RATE = 1e-3  # of painter_small; wider ones want less, as Adam's steps add up over the width (Yang et al. 2022)
_STEPS = 1000.0  # scale of time as diffusers embeds it


class FlowUNetFamily(Family):
    summary: ClassVar[str] = "small networks that learn to paint from nothing"

    def names(self) -> list[str]:
        return list(_CHANNELS) if find_spec("diffusers") else []

    def knows(self, name: str) -> bool:
        return name in _CHANNELS

    def default_overrides(self, name: str, tuning: str) -> dict[str, Any]:
        """Half of the rate at which small ones learn fastest: a half more in width made that one diverge."""
        return {"training.lr": _RATE * _CHANNELS["painter_small"] / _CHANNELS[name]}

    def info(self, name: str) -> ModelInfo:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in _network(name, _SIZE).parameters())
        return ModelInfo(name, count, "Apache-2.0", _SIZE, (Provides.NOISE.value,), offline=True)

    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> DiffusionBackbone:
        if name not in _CHANNELS:
            raise UnknownName(name, list(_CHANNELS), kind="painter", where="backbone.name")
        network = _network(name, size or _SIZE)
        if weights in ("auto", "none", "offline", "hub"):  # there are no others
            return FlowUNet(network, size or _SIZE, "random: painters learn from nothing")
        file = Path(weights).expanduser()
        load_into(network, read_tensors(file), file)
        return FlowUNet(network, size or _SIZE, f"file: {file.name}")


class FlowUNet(DiffusionBackbone):
    """Noise and picture lie on a straight line; the network answers with the direction from the picture to the noise."""

    encodes_text = False
    conditioning_width = _SAID

    def __init__(self, network: Any, size: int, origin: str) -> None:
        super().__init__()
        self.network, self.origin, self.provides = network, origin, frozenset({Provides.NOISE})
        self.input, self.latent_shape = InputSpec(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), (3, size, size)
        self.width, self.token_width, self.map_widths, self.map_strides = 0, 0, (), ()

    def blocks(self) -> list[nn.Module]:
        return list(self.network.children())

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, clean: Tensor) -> Tensor:
        return clean.clamp(-1, 1)

    def sample_times(self, count: int) -> Tensor:
        """Times in the middle more often, where most is left to learn (Esser et al. 2024, section 3.1: mean 0, deviation 1)."""
        return torch.randn(count).sigmoid()

    def add_noise(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        return clean + _wide(time) * (noise - clean)

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        return noise - clean

    def denoise(self, seen: Tensor, time: Tensor, said: Conditioning) -> Tensor:
        counted = said.mask[..., None].to(said.embeddings)
        mean = (said.embeddings * counted).sum(1) / counted.sum(1).clamp(min=1)
        found: Tensor = self.network(
            seen, _STEPS * time, said.embeddings, class_labels=mean, encoder_attention_mask=said.mask
        ).sample
        return found

    def predict_x0_eps(self, seen: Tensor, answer: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        return seen - _wide(time) * answer, seen + (1 - _wide(time)) * answer

    def enable_checkpointing(self) -> None:
        self.network.enable_gradient_checkpointing()


def _wide(time: Tensor) -> Tensor:
    return time[:, None, None, None]


def _network(name: str, size: int) -> Any:
    """A U-Net that halves its maps down to 8 px; raises UsageError for a size that cannot be halved so often."""
    need("generate", "diffusers")
    from diffusers import UNet2DConditionModel

    sides = [size]
    while sides[-1] // 2 >= _COARSEST:
        sides.append(sides[-1] // 2)
    halved = 2 ** (len(sides) - 1)
    if size % halved:
        hint = f"--size {size // halved * halved} or {-(-size // halved) * halved}"
        raise UsageError(
            f"a painter cannot halve {size} px {len(sides) - 1} times",
            where="backbone.size",
            hint=hint,
        )
    channels = [_CHANNELS[name] * min(4, 2**place) for place in range(len(sides))]
    looks = [side <= _LOOKS for side in sides]
    return UNet2DConditionModel(  # type: ignore[no-untyped-call]
        sample_size=size,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=["CrossAttnDownBlock2D" if each else "DownBlock2D" for each in looks],
        up_block_types=["CrossAttnUpBlock2D" if each else "UpBlock2D" for each in reversed(looks)],
        cross_attention_dim=_SAID,
        attention_head_dim=_CHANNELS[name] // 4,
        norm_num_groups=8,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=_SAID,
    )
