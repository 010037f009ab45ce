"""Latent diffusion of the diffusers library, with one text encoder, such as Stable Diffusion 1, 2.

Rombach et al. 2022.

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

from foveate.errors import UsageError, WeightsError, require_packages
from foveate.modeling.backbones import Conditioning, DiffusionBackbone, ModelInfo
from foveate.modeling.backbones._common import check_size, parameter_count
from foveate.modeling.backbones._hub import HubFamily, NoAnswer, first_line, hub_access, hub_error
from foveate.modeling.text_decoder import disable_progress_bars
from foveate.types import InputSpec, Provides

_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


class DiffusersFamily(HubFamily):
    """Pipelines of the diffusers library."""

    summary: ClassVar[str] = "latent diffusion pipelines of the diffusers library"
    prefix: ClassVar[str] = "diffusers:"
    licenses: ClassVar[dict[str, str]] = {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m"
    }

    def names(self) -> list[str]:
        return [self.prefix + name for name in self.licenses] if find_spec("diffusers") else []

    def default_overrides(self, name: str, tuning: str) -> dict[str, Any]:
        """The usual rates: at those of small U-Nets a pretrained pipeline forgets what it knows."""
        return {"training.lr": 1e-5 if tuning == "full" else 1e-4}

    def info(self, name: str) -> ModelInfo:
        backbone = self.open(name, "auto")
        return ModelInfo(
            name,
            parameter_count(backbone),
            self.license(name),
            backbone.input.size,
            (Provides.NOISE.value,),
            offline=False,
        )

    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> DiffusionBackbone:
        pipeline, origin = _load_pipeline(self.location(name)), self.origin(name)
        if weights == "none":
            pipeline.unet = type(pipeline.unet).from_config(pipeline.unet.config)
            origin = f"random; the other parts from {origin}"
        return LatentDiffusion(pipeline, size, origin)


class LatentDiffusion(DiffusionBackbone):
    """A U-Net that denoises the latents of an autoencoder; only the U-Net is trained.

    Args:
        pipeline: A pipeline of diffusers.
        size: Side of the images, px; None for that of the pipeline.
        origin: Where the weights come from.
    """

    encodes_text = True
    alphas_cumprod: Tensor  # (T,): the share of the image in the variance, at T noise levels

    def __init__(self, pipeline: Any, size: int | None, origin: str) -> None:
        from diffusers import DDPMScheduler

        super().__init__()
        self.network, self.autoencoder = pipeline.unet, pipeline.vae
        self.text, self.tokenizer = pipeline.text_encoder, pipeline.tokenizer
        self.origin, self.provides = origin, frozenset({Provides.NOISE})
        scheduler: Any = DDPMScheduler.from_config(pipeline.scheduler.config)  # type: ignore[no-untyped-call]
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.clone(), persistent=False)
        self.prediction_type = scheduler.config.prediction_type
        unet = self.network.config
        scale = 2 ** (len(self.autoencoder.config.block_out_channels) - 1)
        side = size or scale * unet.sample_size
        check_size(side, scale * 2 ** (len(unet.block_out_channels) - 1))
        self.input = InputSpec(side, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.latent_shape = (unet.in_channels, side // scale, side // scale)
        self.conditioning_width = unet.cross_attention_dim
        self.width, self.token_width, self.map_widths, self.map_strides = 0, 0, (), ()

    def blocks(self) -> list[nn.Module]:
        return list(self.network.children())

    def frozen_modules(self) -> list[nn.Module]:
        return [self.autoencoder, self.text]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        mean = self.autoencoder.encode(images).latent_dist.mean
        latents: Tensor = mean * self.autoencoder.config.scaling_factor
        return latents

    def decode(self, clean: Tensor) -> Tensor:
        scaled = clean / self.autoencoder.config.scaling_factor
        images: Tensor = self.autoencoder.decode(scaled).sample
        return images.clamp(-1, 1)

    def add_noise(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        signal, sigma = self._scales(time)
        return signal * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        signal, sigma = self._scales(time)
        if self.prediction_type == "epsilon":
            return noise
        return clean if self.prediction_type == "sample" else signal * noise - sigma * clean

    def denoise(self, noisy: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        output: Tensor = self.network(noisy, self._steps(time), conditioning.embeddings).sample
        return output

    def predict_x0_eps(self, noisy: Tensor, output: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        signal, sigma = self._scales(time)
        if self.prediction_type == "epsilon":
            return (noisy - sigma * output) / signal.clamp(min=1e-4), output
        if self.prediction_type == "sample":
            return output, (noisy - signal * output) / sigma.clamp(min=1e-4)
        return signal * noisy - sigma * output, sigma * noisy + signal * output

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        longest = min(self.tokenizer.model_max_length, self.text.config.max_position_embeddings)
        ids = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        ).input_ids
        embeddings = self.text(ids.to(self.alphas_cumprod.device))[0]
        # padding counts as well: these networks were trained so
        mask = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)
        return Conditioning(embeddings, mask)

    def enable_checkpointing(self) -> None:
        self.network.enable_gradient_checkpointing()

    def _steps(self, time: Tensor) -> Tensor:
        """Times in [0, 1] -> indices of noise levels."""
        return (time * (len(self.alphas_cumprod) - 1)).round().long()

    def _scales(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of image and noise, whose squares add up to 1; at time 0 there is no noise."""
        levels = self.alphas_cumprod[self._steps(time)]
        signal = torch.where(time > 0, levels, torch.ones_like(time))[:, None, None, None]
        return signal.sqrt(), (1 - signal).sqrt()


def _load_pipeline(location: str) -> Any:
    """Load a pipeline.

    Raises:
        UsageError: It is of another kind.
        WeightsError: It cannot be loaded.
    """
    require_packages("generate", "diffusers")
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    logging.disable_progress_bar()
    disable_progress_bars()
    from_pretrained: Any = DiffusionPipeline.from_pretrained
    is_folder = Path(location).is_dir()
    try:
        with hub_access(local=is_folder):
            pipeline = from_pretrained(
                location, local_files_only=is_folder, safety_checker=None, use_safetensors=True
            )
    except (OSError, ValueError, KeyError, NoAnswer) as error:
        hint = (
            "a folder with model_index.json and weights in .safetensors, or --backbone unet_small, "
            "which is trained from random weights"
        )
        if is_folder:
            raise WeightsError(
                "this pipeline cannot be loaded", where=location, why=first_line(error), hint=hint
            ) from None
        raise hub_error(f"the pipeline {location!r}", error, hint) from None
    problem = _unsupported(pipeline)
    if problem:
        raise UsageError(
            "pipelines of this kind cannot be fine-tuned",
            where=location,
            why=problem,
            hint="a pipeline like Stable Diffusion 1 or 2",
        )
    return pipeline


def _unsupported(pipeline: Any) -> str:
    """Why a pipeline is of an unsupported kind; empty if it is not."""
    missing = [part for part in _PARTS if getattr(pipeline, part, None) is None]
    if missing:
        return f"it has no {missing[0]}"
    if getattr(pipeline, "text_encoder_2", None) is not None:
        return "it has two text encoders"
    config = pipeline.unet.config
    return "" if config.in_channels == config.out_channels else "its U-Net expects a mask as input"
