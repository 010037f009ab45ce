"""OWLv2 and CLIPSeg behind the one contract: asked once, they answer about every image."""

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
from foveate.modeling.backbones._hub import first_line, hub_error
from foveate.modeling.backbones._stages import flatten_blocks
from foveate.modeling.weights import load_into, read_tensors
from foveate.predictions import Boxes, Prediction, Regions
from foveate.types import Features, InputSpec, Provides

_FILES = ("model.safetensors", "pytorch_model.bin")
_MADE_ANEW = (
    "position_ids",
    "box_bias",
)  # tensors of older files that follow from the configuration
_MEAN, _STD = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)  # of CLIP, which both begin from


class OpenVocabularyBackbone(NativeBackbone):
    """What the two share. `network`: the whole model of the library; `place`: the folder or the name on the hub."""

    map_widths: tuple[int, ...] = ()
    map_strides: tuple[int, ...] = ()
    provides = frozenset({Provides.NATIVE})
    questions: Tensor

    def __init__(self, network: Any, place: str, origin: str, size: int | None) -> None:
        super().__init__()
        vision = network.config.vision_config
        self.network, self.location, self.origin = network, place, origin
        self.input = InputSpec(_fitting(size or vision.image_size, vision.patch_size), _MEAN, _STD)
        self.width = self.token_width = vision.hidden_size
        self.register_buffer(
            "questions", torch.zeros(0, network.config.projection_dim), persistent=False
        )

    @staticmethod
    @abstractmethod
    def model_class() -> Any:
        """The library's class."""

    @abstractmethod
    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(S, L) token numbers -> (S, D) of the sentences."""

    @abstractmethod
    def predict(self, images: Tensor) -> Any:
        """What `Provides.NATIVE` says, for the questions that were asked."""

    def blocks(self) -> list[nn.Module]:
        return flatten_blocks(self.network)

    def set_queries(self, classes: Sequence[Sequence[str]]) -> None:
        tokens = self._tokenised([sentence for each in classes for sentence in each])
        with torch.no_grad():
            embedded = self.embed(tokens["input_ids"], tokens["attention_mask"])
        parts = torch.split(embedded, [len(each) for each in classes])
        self.questions = torch.stack([part.mean(0) for part in parts])

    def forward(self, images: Tensor, wants: Collection[Provides]) -> Features:
        return Features(native=self.predict(images) if Provides.NATIVE in wants else None)

    def _tokenised(self, sentences: list[str]) -> Any:
        from transformers import AutoTokenizer

        text = self.network.config.text_config
        try:
            words = AutoTokenizer.from_pretrained(self.location, trust_remote_code=False)
        except Exception as error:
            if not Path(self.location).is_dir():
                raise hub_error(
                    f"the tokenizer of {self.location!r}",
                    error,
                    "a folder with its files: --backbone hf:FOLDER",
                ) from None
            what, hint = (
                "this folder lacks the tokenizer of its text network",
                "put its files there (tokenizer.json, ...)",
            )
            raise WeightsError(what, where=self.location, why=first_line(error), hint=hint) from None
        longest = text.max_position_embeddings
        return words(
            sentences,
            padding="max_length",
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        )


class Owlv2Backbone(OpenVocabularyBackbone):
    prediction_type: ClassVar[type[Prediction]] = Boxes

    @staticmethod
    def model_class() -> Any:
        from transformers import Owlv2ForObjectDetection

        return Owlv2ForObjectDetection

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Of length 1, so that each sentence counts alike in the average (Radford et al. 2021, section 3.1.4)."""
        return functional.normalize(
            _pooled(self.network.owlv2.get_text_features(input_ids=ids, attention_mask=mask)),
            dim=-1,
        )

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, A, 4) in pixels of the square, logits (B, A, K)."""
        stretched = images.shape[-1] != self.network.config.vision_config.image_size
        grid = self.network.image_embedder(images, interpolate_pos_encoding=stretched)[0]
        places = grid.flatten(1, 2)
        logits, _ = self.network.class_predictor(places, self.questions.expand(len(images), -1, -1))
        boxes = self.network.box_predictor(places, grid, interpolate_pos_encoding=stretched)
        return box_convert(boxes, "cxcywh", "xyxy") * images.shape[-1], logits


class ClipSegBackbone(OpenVocabularyBackbone):
    prediction_type: ClassVar[type[Prediction]] = Regions

    @staticmethod
    def model_class() -> Any:
        from transformers import CLIPSegForImageSegmentation

        return CLIPSegForImageSegmentation

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        return _pooled(self.network.clip.get_text_features(input_ids=ids, attention_mask=mask))

    def predict(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W): of each class against all else, so that one of the classes has to be the rest."""
        layers = self.network.config.extract_layers
        seen = self.network.clip.vision_model(
            images, output_hidden_states=True, interpolate_pos_encoding=True
        ).hidden_states
        taken = [seen[layer + 1] for layer in layers]
        each = (
            self.network.decoder(taken, question.expand(len(images), -1)).logits
            for question in self.questions
        )
        return torch.stack([logits.reshape(len(images), *images.shape[-2:]) for logits in each], 1)


BACKBONE_CLASSES: dict[str, type[OpenVocabularyBackbone]] = {"owlv2": Owlv2Backbone, "clipseg": ClipSegBackbone}


def _pooled(found: Any) -> Tensor:
    """transformers gives a tensor, or since version 5 an output that holds it."""
    tensor: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return tensor


def _fitting(size: int, patch: int) -> int:
    if size % patch:
        what = f"this backbone divides a picture into squares of {patch} px"
        raise UsageError(
            what, where="backbone.size", hint=f"--size {max(patch, round(size / patch) * patch)}"
        )
    return size


# --- from a name to a configuration and weights


def load_config(place: str) -> Any:
    """Raises UsageError for a folder or a model that is of no kind in KINDS, WeightsError where the hub cannot be reached."""
    from transformers import AutoConfig

    if _is_path(place) and not (Path(place).expanduser() / "config.json").is_file():
        raise UsageError(
            "there is no config.json in this folder",
            where=place,
            hint=f"a folder with config.json and {_FILES[0]}",
        )
    try:
        config = AutoConfig.from_pretrained(
            str(Path(place).expanduser()) if _is_path(place) else place, trust_remote_code=False
        )
    except Exception as error:
        if _is_path(place):
            raise UsageError(
                "transformers cannot read this configuration", where=place, why=first_line(error)
            ) from None
        raise hub_error(
            f"the configuration of {place!r}",
            error,
            "a folder with its files: --backbone hf:FOLDER",
        ) from None
    if config.model_type not in BACKBONE_CLASSES:
        hint = f"one of: {', '.join(BACKBONE_CLASSES)}; foveate models lists other backbones"
        raise UsageError(
            f"networks of the kind {config.model_type!r} do not find things by their names",
            where=place,
            hint=hint,
        )
    return config


def _is_path(place: str) -> bool:
    return place.startswith((".", "~", "/")) or "\\" in place or Path(place).is_dir()


def load_weights(network: Any, place: str, weights: str) -> str:
    """Puts the weights in; gives the sentence that says where they came from."""
    if weights == "none":
        return "random, as asked with --weights none"
    if weights == "offline":
        what = f"no offline package holds weights of {place!r}"
        raise UsageError(what, where="backbone.weights", hint="--backbone hf:FOLDER")
    path, origin = (
        (Path(weights).expanduser(), f"file: {Path(weights).name}")
        if weights not in ("auto", "hub")
        else _usual(place)
    )
    tensors = {
        name: tensor for name, tensor in read_tensors(path).items() if not name.endswith(_MADE_ANEW)
    }
    load_into(network, tensors, path)
    return origin


def _usual(place: str) -> tuple[Path, str]:
    folder = Path(place).expanduser()
    if _is_path(place):
        file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
        if file is None:
            raise UsageError(
                f"this folder holds no {_FILES[0]}",
                where=folder,
                hint="--weights FILE, or --weights none (random)",
            )
        return file, f"folder: {folder.name}/{file.name}"
    from huggingface_hub import hf_hub_download

    hint = "give a local file with --weights FILE, or a folder with --backbone hf:FOLDER"
    try:
        return Path(hf_hub_download(place, _FILES[0])), f"hub: {place}"
    except Exception as error:
        raise hub_error(f"the weights of {place!r}", error, hint) from None
