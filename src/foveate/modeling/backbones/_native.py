"""OWLv2 and CLIPSeg as backbones: they predict boxes or masks of classes that are given as text.

The classes are encoded once, by `set_queries`, and then apply to every image.

Letters: B images, S sentences, K classes, L tokens in a sentence, D width of an embedding, A boxes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert

from foveate.errors import UsageError, WeightsError
from foveate.modeling.backbones import NativeBackbone
from foveate.modeling.backbones._common import (
    CLIP_MEAN,
    CLIP_STD,
    RANDOM,
    check_size,
    no_offline_error,
)
from foveate.modeling.backbones._hub import first_line, hub_access, hub_error
from foveate.modeling.backbones._stages import flatten_blocks
from foveate.modeling.weights import load_into, read_tensors
from foveate.predictions import Boxes, Prediction, Regions
from foveate.types import Features, InputSpec, Provides

_FILES = ("model.safetensors", "pytorch_model.bin")
_DERIVED = ("position_ids", "box_bias")  # tensors of older files, which the configuration implies


class OpenVocabularyBackbone(NativeBackbone):
    """What OWLv2 and CLIPSeg share.

    Args:
        network: The whole model of the library.
        location: The folder or the name on the hub, where the tokenizer is.
        origin: Where the weights come from.
        size: Side of the input, px; None for that of the configuration.
    """

    map_widths: tuple[int, ...] = ()
    map_strides: tuple[int, ...] = ()
    provides = frozenset({Provides.NATIVE})
    queries: Tensor  # (K, D)

    def __init__(self, network: Any, location: str, origin: str, size: int | None) -> None:
        super().__init__()
        vision = network.config.vision_config
        self.network, self.location, self.origin = network, location, origin
        side = size or vision.image_size
        check_size(side, vision.patch_size)
        self.input = InputSpec(side, CLIP_MEAN, CLIP_STD)  # both begin from CLIP
        self.width = self.token_width = vision.hidden_size
        no_queries = torch.zeros(0, network.config.projection_dim)
        self.register_buffer("queries", no_queries, persistent=False)

    @staticmethod
    @abstractmethod
    def model_class() -> Any:
        """Return the class of the library."""

    @abstractmethod
    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return embeddings (S, D) of sentences, from token ids and their mask (S, L)."""

    @abstractmethod
    def predict(self, images: Tensor) -> Any:
        """Return what `Provides.NATIVE` stands for, for the current queries."""

    def blocks(self) -> list[nn.Module]:
        return flatten_blocks(self.network)

    def set_queries(self, classes: Sequence[Sequence[str]]) -> None:
        tokens = self._tokenize([sentence for sentences in classes for sentence in sentences])
        with torch.no_grad():
            embeddings = self.embed(tokens["input_ids"], tokens["attention_mask"])
        parts = torch.split(embeddings, [len(sentences) for sentences in classes])
        self.queries = torch.stack([part.mean(0) for part in parts])

    def forward(self, images: Tensor, requested: Collection[Provides]) -> Features:
        return Features(native=self.predict(images) if Provides.NATIVE in requested else None)

    def _tokenize(self, sentences: list[str]) -> Any:
        from transformers import AutoTokenizer

        try:
            with hub_access(local=Path(self.location).is_dir()):
                tokenizer = AutoTokenizer.from_pretrained(self.location, trust_remote_code=False)
        except Exception as error:
            if not Path(self.location).is_dir():
                hint = "a folder with its files: --backbone hf:FOLDER"
                raise hub_error(f"the tokenizer of {self.location!r}", error, hint) from None
            raise WeightsError(
                "this folder lacks the tokenizer of its text network",
                where=self.location,
                why=first_line(error),
                hint="put its files there (tokenizer.json, ...)",
            ) from None
        return tokenizer(
            sentences,
            padding="max_length",
            truncation=True,
            max_length=self.network.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )


class Owlv2Backbone(OpenVocabularyBackbone):
    """OWLv2: boxes (B, A, 4) and logits (B, A, K)."""

    prediction_type: ClassVar[type[Prediction]] = Boxes

    @staticmethod
    def model_class() -> Any:
        from transformers import Owlv2ForObjectDetection

        return Owlv2ForObjectDetection

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Normalize, so that sentences have equal weight in the mean (CLIP, section 3.1.4)."""
        embeddings = self.network.owlv2.get_text_features(input_ids=ids, attention_mask=mask)
        return functional.normalize(_pooled(embeddings), dim=-1)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (B, A, 4) in px of the input, and logits (B, A, K)."""
        resized = images.shape[-1] != self.network.config.vision_config.image_size
        grid = self.network.image_embedder(images, interpolate_pos_encoding=resized)[0]
        tokens = grid.flatten(1, 2)
        queries = self.queries.expand(len(images), -1, -1)
        logits, _ = self.network.class_predictor(tokens, queries)
        boxes = self.network.box_predictor(tokens, grid, interpolate_pos_encoding=resized)
        return box_convert(boxes, "cxcywh", "xyxy") * images.shape[-1], logits


class ClipSegBackbone(OpenVocabularyBackbone):
    """CLIPSeg: logits of pixels (B, K, H, W)."""

    prediction_type: ClassVar[type[Prediction]] = Regions

    @staticmethod
    def model_class() -> Any:
        from transformers import CLIPSegForImageSegmentation

        return CLIPSegForImageSegmentation

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        return _pooled(self.network.clip.get_text_features(input_ids=ids, attention_mask=mask))

    def predict(self, images: Tensor) -> Tensor:
        """Return logits (B, K, H, W) of each class against everything else.

        One of the classes therefore has to be the background.
        """
        states = self.network.clip.vision_model(
            images, output_hidden_states=True, interpolate_pos_encoding=True
        ).hidden_states
        activations = [states[layer + 1] for layer in self.network.config.extract_layers]
        shape = len(images), *images.shape[-2:]
        logits = [
            self.network.decoder(activations, query.expand(len(images), -1)).logits.reshape(shape)
            for query in self.queries
        ]
        return torch.stack(logits, 1)


BACKBONE_CLASSES: dict[str, type[OpenVocabularyBackbone]] = {
    "owlv2": Owlv2Backbone,
    "clipseg": ClipSegBackbone,
}
"""By model_type of the configuration."""


def _pooled(output: Any) -> Tensor:
    """The tensor of an output: transformers returns it as it is, since version 5 in an object."""
    tensor: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return tensor


# --- from a name to a configuration and weights


def load_config(location: str) -> Any:
    """Load the configuration of a model.

    Raises:
        UsageError: The folder has none, or the model is of no type in BACKBONE_CLASSES.
        WeightsError: It could not be loaded from the hub.
    """
    from transformers import AutoConfig

    is_path = _is_path(location)
    if is_path and not (Path(location).expanduser() / "config.json").is_file():
        raise UsageError(
            "there is no config.json in this folder",
            where=location,
            hint=f"a folder with config.json and {_FILES[0]}",
        )
    source = str(Path(location).expanduser()) if is_path else location
    try:
        with hub_access(local=is_path):
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        if is_path:
            raise UsageError(
                "transformers cannot read this configuration", where=location, why=first_line(error)
            ) from None
        hint = "a folder with its files: --backbone hf:FOLDER"
        raise hub_error(f"the configuration of {location!r}", error, hint) from None
    if config.model_type not in BACKBONE_CLASSES:
        raise UsageError(
            f"models of type {config.model_type!r} do not predict classes given as text",
            where=location,
            hint=f"one of: {', '.join(BACKBONE_CLASSES)}; foveate models lists other backbones",
        )
    return config


def _is_path(location: str) -> bool:
    return location.startswith((".", "~", "/")) or "\\" in location or Path(location).is_dir()


def load_weights(network: Any, location: str, weights: str) -> str:
    """Load weights into the network; returns where they come from, as shown to the user.

    Raises:
        UsageError: There are no such weights.
        WeightsError: They are unavailable or do not fit.
    """
    if weights == "none":
        return RANDOM
    if weights == "offline":
        raise no_offline_error(location, hint="--backbone hf:FOLDER")
    if weights in ("auto", "hub"):
        path, origin = _default_weights(location)
    else:
        path = Path(weights).expanduser()
        origin = f"file: {path.name}"
    tensors = read_tensors(path)
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(_DERIVED)}
    load_into(network, kept, path)
    return origin


def _default_weights(location: str) -> tuple[Path, str]:
    """Path and origin of the weights of a folder or of a model of the hub."""
    if _is_path(location):
        folder = Path(location).expanduser()
        file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
        if file is None:
            raise UsageError(
                f"there is no {_FILES[0]} in this folder",
                where=folder,
                hint="--weights FILE, or --weights none (random)",
            )
        return file, f"folder: {folder.name}/{file.name}"
    from huggingface_hub import hf_hub_download

    try:
        with hub_access():
            return Path(hf_hub_download(location, _FILES[0])), f"hub: {location}"
    except Exception as error:
        hint = "a local file with --weights FILE, or a folder with --backbone hf:FOLDER"
        raise hub_error(f"the weights of {location!r}", error, hint) from None
