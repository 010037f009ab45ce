"""Networks, weights and tokenizers of open_clip, from the name of a backbone.

The name alone decides preprocessing and activations: they must be the same whatever weights are
loaded later.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from foveate.errors import MissingExtra, UnknownName, UsageError, WeightsError
from foveate.modeling.backbones._common import RANDOM, no_drop_path_error, no_offline_error
from foveate.modeling.backbones._hub import first_line, hub_access, hub_error
from foveate.modeling.weights import load_into, read_tensors

PREFIX = "clip:"  # timm has networks of the same names
CONFIG = "open_clip_config.json"
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# training sets of weights with free licenses, the most accurate first
_BEST_TAGS = ("datacomp_xl", "laion2b", "webli", "laion400m", "openai")


@dataclass(frozen=True)
class ModelConfig:
    """What the name of a backbone stands for.

    Attributes:
        label: A short name for messages.
        model: The model_cfg of open_clip.
        pixels: Mean and std of the input.
        source: Where the weights are on the hub; None if there are none.
        folder: The local folder, if the name is a path.
    """

    label: str
    model: dict[str, Any]
    pixels: dict[str, tuple[float, ...]]
    source: dict[str, Any] | None = None
    folder: Path | None = None


@cache
def model_names() -> tuple[str, ...]:
    """Return the names of all models, with and without tag.

    Models whose text network is of the transformers library are left out: not even their shapes are
    known without the hub.
    """
    import open_clip

    models = [
        name
        for name in open_clip.list_models()
        if "hf_model_name" not in open_clip.get_model_config(name)["text_cfg"]
    ]
    tagged = [
        f"{name}.{tag}" for name in models for tag in open_clip.list_pretrained_tags_by_model(name)
    ]
    return tuple(sorted(PREFIX + name for name in (*models, *tagged)))


def resolve_config(name: str) -> ModelConfig:
    """Return the configuration of a model or of a folder.

    Raises:
        MissingExtra: open_clip is not installed.
        UnknownName: There is no such model.
        UsageError: The folder or its configuration is missing or unusable.
    """
    if not find_spec("open_clip"):
        raise MissingExtra("open-clip-torch", "clip")
    bare = name.removeprefix(PREFIX)
    if name not in model_names():
        if _is_path(bare):
            return _read_folder(Path(bare).expanduser())
        raise UnknownName(name, model_names(), kind="backbone", where="backbone.name")
    import open_clip

    architecture, _, tag = bare.partition(".")
    tag = tag or _best_tag(open_clip.list_pretrained_tags_by_model(architecture))
    source = open_clip.get_pretrained_cfg(architecture, tag)
    model = open_clip.get_model_config(architecture)
    model["quick_gelu"] = source.get("quick_gelu", model.get("quick_gelu", False))
    label = f"{architecture}.{tag}" if tag else architecture
    return ModelConfig(label, model, _pixels(source), source or None)


def _pixels(config: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """Mean and std as configured, otherwise those of OpenAI's models."""
    import open_clip

    defaults = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    return {key: tuple(map(float, config.get(key) or value)) for key, value in defaults.items()}


def _is_path(name: str) -> bool:
    return name.startswith((".", "~")) or "/" in name or "\\" in name or Path(name).is_dir()


def _best_tag(tags: Sequence[str]) -> str:
    """The tag of the best training set, the first of several; '' if there is none."""
    ranks = {
        tag: next(
            (i for i, start in enumerate(_BEST_TAGS) if tag.startswith(start)), len(_BEST_TAGS)
        )
        for tag in tags
    }
    return min(ranks, key=lambda tag: ranks[tag], default="")


def _read_folder(folder: Path) -> ModelConfig:
    """Raises UsageError where the folder or its configuration is missing or unusable."""
    file = folder / CONFIG
    if not folder.is_dir():
        raise UsageError(
            "there is no folder at this path",
            where=folder,
            hint=f"a folder with {CONFIG} and {_FILES[0]}",
        )
    if not file.is_file():
        raise UsageError(
            f"there is no {CONFIG} in this folder",
            where=folder,
            hint="save the model in the format of open_clip",
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        model, pixels = content["model_cfg"], _pixels(content.get("preprocess_cfg") or {})
        text_model = model["text_cfg"].get("hf_model_name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unbuildable(file, error) from None
    if text_model:
        raise UsageError(
            "text networks of the transformers library are not supported",
            where=file,
            why=f"the configuration names {text_model!r}",
        )
    return ModelConfig(folder.resolve().name, model, pixels, folder=folder)


# --- from a configuration to a network


def build_network(config: ModelConfig, size: int | None, drop_path: float) -> Any:
    """Build an image and a text network with random weights.

    They are separate modules, also where open_clip keeps the parts of the text network beside those
    of the image network.

    Raises:
        UsageError: The configuration, the size or the rate is not supported.
    """
    import open_clip

    try:
        return open_clip.CustomTextCLIP(**_arguments(config, size, drop_path))
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError) as error:
        raise _unbuildable(config.folder or config.label, error) from None


def _arguments(config: ModelConfig, size: int | None, drop_path: float) -> dict[str, Any]:
    """The arguments of CustomTextCLIP, without the caption decoder of CoCa."""
    model = deepcopy(config.model)
    for key in ("custom_text", "multimodal_cfg"):
        model.pop(key, None)
    vision = model["vision_cfg"]
    vision |= {"timm_model_pretrained": False, "patch_dropout": 0.0, "output_tokens": False}
    model["text_cfg"]["output_tokens"] = False
    if size:
        _check_size(vision, size)
        vision["image_size"] = size
    if drop_path:
        if not vision.get("timm_model_name"):
            raise no_drop_path_error(config.label)
        vision["timm_drop_path"] = drop_path
    return model


def _unbuildable(where: object, error: Exception) -> UsageError:
    why = f"{type(error).__name__}: {first_line(error)}"
    return UsageError("open_clip cannot build this model", where=where, why=why)


def _check_size(vision: dict[str, Any], size: int) -> None:
    """Refuse another size for CLIP's ResNets: positions of their pooling cannot be interpolated."""
    fixed = vision.get("image_size", 224)
    if isinstance(vision.get("layers"), list) and size != fixed:
        raise UsageError(
            f"the input size of this backbone is fixed at {fixed} px, got {size}",
            where="backbone.size",
            hint=f"--size {fixed}",
        )


def image_size(visual: Any) -> int:
    """Return the side of the input of an image network, px."""
    size = visual.image_size
    return int(size if isinstance(size, int) else size[-1])


def stage_shapes(visual: Any) -> list[tuple[int, int]]:
    """Return (channels, stride) of every stage that can give a map.

    The order is that of forward_intermediates.
    """
    if hasattr(visual, "trunk"):
        return [(stage["num_chs"], stage["reduction"]) for stage in visual.trunk.feature_info]
    if hasattr(visual, "layer4"):
        width = visual.conv3.out_channels
        return [(width, 4), (4 * width, 4), (8 * width, 8), (16 * width, 16), (32 * width, 32)]
    return [(visual.conv1.out_channels, visual.patch_size[0])] * visual.transformer.layers


# --- weights and tokenizer


def load_weights(network: Any, config: ModelConfig, weights: str) -> str:
    """Load weights into the network; returns where they come from, as shown to the user.

    Raises:
        UsageError: There are no such weights.
        WeightsError: They are unavailable or do not fit.
    """
    if weights == "none":
        return RANDOM
    if weights == "offline":
        raise no_offline_error(config.label, hint=f"--backbone {PREFIX}FOLDER")
    if weights in ("auto", "hub"):
        path, origin = _find_in_folder(config, weights) if config.folder else _download(config)
    else:
        path = Path(weights).expanduser()
        origin = f"file: {path.name}"
    load_into(network, _convert(network, read_tensors(path)), path)
    return origin


def _find_in_folder(config: ModelConfig, weights: str) -> tuple[Path, str]:
    assert config.folder is not None
    if weights == "hub":
        raise UsageError(
            "--weights hub does not apply to a folder",
            where="backbone.weights",
            hint="--weights auto",
        )
    for name in _FILES:
        if (config.folder / name).is_file():
            return config.folder / name, f"folder: {config.label}/{name}"
    raise UsageError(
        f"there is no {_FILES[0]} in this folder",
        where=config.folder,
        hint="--weights FILE, or --weights none (random)",
    )


def _download(config: ModelConfig) -> tuple[Path, str]:
    import open_clip

    hint = (
        f"a local file with --weights FILE, a folder with --backbone {PREFIX}FOLDER, "
        "or --weights none"
    )
    if config.source is None:
        raise WeightsError(f"open_clip has no pretrained weights of {config.label!r}", hint=hint)
    try:
        with hub_access():
            return Path(open_clip.download_pretrained(config.source)), f"hub: {config.label}"
    except Exception as error:
        raise hub_error(f"the weights of {config.label!r}", error, hint) from None


def _convert(network: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in the names of two separate networks, with positions resized, as open_clip does."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed

    try:
        tensors = convert_to_custom_text_state_dict(convert_state_dict(network, tensors))
        resize_pos_embed(tensors, network)
    except (KeyError, ValueError, RuntimeError, AttributeError):
        return tensors  # of another architecture: `load_into` says what does not fit
    scalars = {
        name: tensors[name].reshape(parameter.shape)
        for name, parameter in network.named_parameters(recurse=False)
        if name in tensors and parameter.numel() == tensors[name].numel()
    }
    return tensors | scalars


def load_tokenizer(config: ModelConfig) -> Any:
    """Load the tokenizer of a model.

    It is that of the folder, that of the architecture from the hub, or the one that comes with
    open_clip. Code in a folder is never run.

    Raises:
        WeightsError: It is unavailable.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = config.model["text_cfg"]
    options = {
        "context_length": text.get("context_length", 77),
        **(text.get("tokenizer_kwargs") or {}),
    }
    name = text.get("hf_tokenizer_name")
    if not name:
        return SimpleTokenizer(**options)
    options |= {"tokenizer_mode": text.get("tokenizer_mode"), "trust_remote_code": False}
    try:
        with hub_access(local=config.folder is not None):
            return HFTokenizer(str(config.folder or name), **options)
    except Exception as error:
        if config.folder is None:
            hint = f"a folder with the files of the tokenizer: --backbone {PREFIX}FOLDER"
            raise hub_error(f"the tokenizer {name!r}", error, hint) from None
        raise WeightsError(
            "this folder lacks the tokenizer of its text network",
            where=config.folder,
            why=first_line(error),
            hint=f"put the files of {name!r} there (tokenizer.json, ...)",
        ) from None
