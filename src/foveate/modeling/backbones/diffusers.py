"""Painters of the diffusers library: latent diffusion with one text encoder, as Stable Diffusion 1 and 2 (Rombach et al. 2022).

diffusers:stable-diffusion-v1-5/stable-diffusion-v1-5      a model of the hub
diffusers:FOLDER                                           a folder with model_index.json
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foveate.errors import UsageError, WeightsError, need
from foveate.modeling.backbones import Conditioning, DiffusionBackbone, ModelInfo
from foveate.modeling.backbones._hub import HubFamily, first_line, hub_error
from foveate.modeling.text_decoder import disable_progress_bars
from foveate.types import InputSpec, Provides

_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


class DiffusersFamily(HubFamily):
    summary: ClassVar[str] = "painters of the diffusers library"
    prefix: ClassVar[str] = "diffusers:"
    licenses: ClassVar[dict[str, str]] = {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m"
    }

    def names(self) -> list[str]:
        return [self.prefix + name for name in self.licenses] if find_spec("diffusers") else []

    def default_overrides(self, name: str, tuning: str) -> dict[str, Any]:
        """The usual rates: a pipeline knows how to paint, and forgets it at those of small painters."""
        return {"training.lr": 1e-5 if tuning == "full" else 1e-4}

    def info(self, name: str) -> ModelInfo:
        painter = self.open(name, "auto")
        count = sum(parameter.numel() for parameter in painter.parameters())
        return ModelInfo(
            name,
            count,
            self.license(name),
            painter.input.size,
            (Provides.NOISE.value,),
            offline=False,
        )

    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> DiffusionBackbone:
        pipeline, origin = _pipeline(self.location(name)), self.origin(name)
        if weights == "none":
            pipeline.unet, origin = (
                type(pipeline.unet).from_config(pipeline.unet.config),
                f"random; the other parts from {origin}",
            )
        return LatentDiffusion(pipeline, size, origin)


class LatentDiffusion(DiffusionBackbone):
    """Paints in the latents of an autoencoder. `network`: the U-Net; the autoencoder and the text encoder stay as they are."""

    encodes_text = True

    def __init__(self, pipeline: Any, size: int | None, origin: str) -> None:
        from diffusers import DDPMScheduler

        super().__init__()
        self.network, self.autoencoder, self.text = (
            pipeline.unet,
            pipeline.vae,
            pipeline.text_encoder,
        )
        self.tokenizer, self.origin, self.provides = (
            pipeline.tokenizer,
            origin,
            frozenset({Provides.NOISE}),
        )
        plan: Any = DDPMScheduler.from_config(pipeline.scheduler.config)  # type: ignore[no-untyped-call]
        self.register_buffer("signal", plan.alphas_cumprod.clone(), persistent=False)
        self.kind = plan.config.prediction_type
        scale = 2 ** (len(self.autoencoder.config.block_out_channels) - 1)
        side = size or scale * self.network.config.sample_size
        self._refuse_odd(side, scale)
        self.input = InputSpec(side, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.latent_shape = (self.network.config.in_channels, side // scale, side // scale)
        self.conditioning_width = self.network.config.cross_attention_dim
        self.width, self.token_width, self.map_widths, self.map_strides = 0, 0, (), ()

    def _refuse_odd(self, side: int, scale: int) -> None:
        step = scale * 2 ** (len(self.network.config.block_out_channels) - 1)
        if side % step:
            hint = f"--size {max(step, side // step * step)}"
            raise UsageError(
                f"this painter wants a size that {step} divides, not {side}",
                where="backbone.size",
                hint=hint,
            )

    def blocks(self) -> list[nn.Module]:
        return list(self.network.children())

    def frozen_modules(self) -> list[nn.Module]:
        return [self.autoencoder, self.text]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        found: Tensor = (
            self.autoencoder.encode(images).latent_dist.mean
            * self.autoencoder.config.scaling_factor
        )
        return found

    def decode(self, clean: Tensor) -> Tensor:
        found: Tensor = self.autoencoder.decode(
            clean / self.autoencoder.config.scaling_factor
        ).sample
        return found.clamp(-1, 1)

    def add_noise(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        here, there = self._shares(time)
        return here * clean + there * noise

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        here, there = self._shares(time)
        return {"epsilon": noise, "sample": clean}.get(self.kind, here * noise - there * clean)

    def denoise(self, seen: Tensor, time: Tensor, said: Conditioning) -> Tensor:
        found: Tensor = self.network(seen, self._places(time), said.embeddings).sample
        return found

    def predict_x0_eps(self, seen: Tensor, answer: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        here, there = self._shares(time)
        if self.kind == "epsilon":
            return (seen - there * answer) / here.clamp(min=1e-4), answer
        if self.kind == "sample":
            return answer, (seen - here * answer) / there.clamp(min=1e-4)
        return here * seen - there * answer, there * seen + here * answer

    @torch.no_grad()
    def encode_prompts(self, sentences: Sequence[str]) -> Conditioning:
        most = min(self.tokenizer.model_max_length, self.text.config.max_position_embeddings)
        ids = self.tokenizer(
            list(sentences),
            padding="max_length",
            truncation=True,
            max_length=most,
            return_tensors="pt",
        ).input_ids
        words = self.text(ids.to(self.signal.device))[0]
        return Conditioning(words, torch.ones(words.shape[:2], dtype=torch.bool, device=words.device))

    def enable_checkpointing(self) -> None:
        self.network.enable_gradient_checkpointing()

    signal: Tensor

    def _places(self, time: Tensor) -> Tensor:
        return (time * (len(self.signal) - 1)).round().long()

    def _shares(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Of the picture and of the noise, whose squares add up to 1; at time 0 there is no noise at all."""
        signal = torch.where(time > 0, self.signal[self._places(time)], torch.ones_like(time))[
            :, None, None, None
        ]
        return signal.sqrt(), (1 - signal).sqrt()


def _pipeline(place: str) -> Any:
    """Raises WeightsError for what cannot be opened, UsageError for another kind."""
    need("generate", "diffusers")
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    logging.disable_progress_bar()
    disable_progress_bars()
    opened: Any = DiffusionPipeline.from_pretrained
    here = Path(place).is_dir()
    try:
        found = opened(place, local_files_only=here, safety_checker=None, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        hint = "a folder with model_index.json and weights in .safetensors, or painter_small, which learns from nothing"
        if here:
            raise WeightsError(
                "this pipeline cannot be opened", where=place, why=first_line(error), hint=hint
            ) from None
        raise hub_error(f"the pipeline {place!r}", error, hint) from None
    why = _other(found)
    if why:
        hint = "one like Stable Diffusion 1 or 2"
        raise UsageError(
            "this kind of pipeline cannot be tuned here", where=place, why=why, hint=hint
        )
    return found


def _other(pipeline: Any) -> str:
    """What makes a pipeline one of another kind; empty for none."""
    lacking = [part for part in _PARTS if getattr(pipeline, part, None) is None]
    if lacking:
        return f"it has no {lacking[0]}"
    if getattr(pipeline, "text_encoder_2", None) is not None:
        return "it has two text encoders"
    plan = pipeline.unet.config
    return "" if plan.in_channels == plan.out_channels else "its U-Net is told of a mask"
