"""From a name to open_clip's networks, weights and tokenizer.

The name alone decides preprocessing and activations: they have to be the same whatever weights are filled in later.
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
from foveate.modeling.backbones._hub import first_line, hub_error
from foveate.modeling.weights import load_into, read_tensors

PREFIX = "clip:"  # timm has networks of the same names
CONFIG = "open_clip_config.json"
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_BEST = (
    "datacomp_xl",
    "laion2b",
    "webli",
    "laion400m",
    "openai",
)  # training sets, the most accurate of the free licences first


@dataclass(frozen=True)
class ModelConfig:
    """What a name stands for, in words its `label`.

    `model`: open_clip's model_cfg. `pixels`: mean and std. `source`: where its weights lie on the hub, or the local `folder`.
    """

    label: str
    model: dict[str, Any]
    pixels: dict[str, tuple[float, ...]]
    source: dict[str, Any] | None = None
    folder: Path | None = None


@cache
def model_names() -> tuple[str, ...]:
    """Those with a text network of the transformers library are left out: not even its shape is known without the hub."""
    import open_clip

    own = [
        name
        for name in open_clip.list_models()
        if "hf_model_name" not in open_clip.get_model_config(name)["text_cfg"]
    ]
    tagged = [
        f"{name}.{tag}" for name in own for tag in open_clip.list_pretrained_tags_by_model(name)
    ]
    return tuple(sorted(PREFIX + name for name in (*own, *tagged)))


def resolve_config(name: str) -> ModelConfig:
    if not find_spec("open_clip"):
        raise MissingExtra("open-clip-torch", "clip")
    word = name.removeprefix(PREFIX)
    if name not in model_names():
        if _is_path(word):
            return _plan_in(Path(word).expanduser())
        raise UnknownName(name, model_names(), kind="backbone", where="backbone.name")
    import open_clip

    architecture, _, tag = word.partition(".")
    tag = tag or _best(open_clip.list_pretrained_tags_by_model(architecture))
    source = open_clip.get_pretrained_cfg(architecture, tag)
    model = open_clip.get_model_config(architecture)
    model["quick_gelu"] = source.get("quick_gelu", model.get("quick_gelu", False))
    return ModelConfig(
        f"{architecture}.{tag}" if tag else architecture, model, _pixels(source), source or None
    )


def _pixels(stated: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """Mean and std as stated, or OpenAI's."""
    import open_clip

    usual = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    return {word: tuple(map(float, stated.get(word) or values)) for word, values in usual.items()}


def _is_path(word: str) -> bool:
    return word.startswith((".", "~")) or "/" in word or "\\" in word or Path(word).is_dir()


def _best(tags: Sequence[str]) -> str:
    """The tag of the best training set, the first of several; '' where there is none."""
    ranks = {
        tag: next((rank for rank, start in enumerate(_BEST) if tag.startswith(start)), len(_BEST))
        for tag in tags
    }
    return min(ranks, key=lambda tag: ranks[tag], default="")


def _plan_in(folder: Path) -> ModelConfig:
    """Raises UsageError where the folder or its configuration is missing, or says nothing that can be built."""
    file = folder / CONFIG
    if not folder.is_dir():
        raise UsageError(
            "there is no folder at this path",
            where=folder,
            hint=f"a folder with {CONFIG} and {_FILES[0]}",
        )
    if not file.is_file():
        raise UsageError(
            f"this folder holds no {CONFIG}",
            where=folder,
            hint="save the model in open_clip's format",
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        model, pixels = content["model_cfg"], _pixels(content.get("preprocess_cfg") or {})
        elsewhere = model["text_cfg"].get("hf_model_name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unbuildable(file, error) from None
    if elsewhere:
        raise UsageError(
            "the text network of this folder is one of the transformers library",
            where=file,
            why=f"{elsewhere!r}",
        )
    return ModelConfig(folder.resolve().name, model, pixels, folder=folder)


# --- from a plan to a network


def build_network(plan: ModelConfig, size: int | None, drop_path: float) -> Any:
    """Two networks with random weights, as two modules even where open_clip keeps the text's parts beside the image's."""
    import open_clip

    try:
        return open_clip.CustomTextCLIP(**_described(plan, size, drop_path))
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError) as error:
        raise _unbuildable(plan.folder or plan.label, error) from None


def _described(plan: ModelConfig, size: int | None, drop_path: float) -> dict[str, Any]:
    """The plan's model as CustomTextCLIP takes it, without CoCa's decoder, which writes captions and embeds nothing."""
    model = {
        word: value
        for word, value in deepcopy(plan.model).items()
        if word not in ("custom_text", "multimodal_cfg")
    }
    vision = model["vision_cfg"]
    vision |= {"timm_model_pretrained": False, "patch_dropout": 0.0, "output_tokens": False}
    model["text_cfg"]["output_tokens"] = False
    if size:
        _refuse_size(vision, size)
        vision["image_size"] = size
    if drop_path:
        if not vision.get("timm_model_name"):
            raise UsageError(
                f"the backbone {plan.label!r} has no stochastic depth",
                hint="--set training.drop_path=0",
            )
        vision["timm_drop_path"] = drop_path
    return model


def _unbuildable(where: object, error: Exception) -> UsageError:
    why = f"{type(error).__name__}: {first_line(error)}"
    return UsageError("open_clip can build no model from this description", where=where, why=why)


def _refuse_size(vision: dict[str, Any], size: int) -> None:
    """CLIP's ResNets pool with learnt positions, which nothing stretches."""
    own = vision.get("image_size", 224)
    if isinstance(vision.get("layers"), list) and size != own:
        what = f"this backbone sees squares of {own} px and no others"
        raise UsageError(what, where="backbone.size", hint=f"--set backbone.size={own}")


def image_size(visual: Any) -> int:
    size = visual.image_size
    return int(size if isinstance(size, int) else size[-1])


def stage_shapes(visual: Any) -> list[tuple[int, int]]:
    """Channels and stride of every stage that can give a map, in the order of forward_intermediates."""
    if hasattr(visual, "trunk"):
        return [(stage["num_chs"], stage["reduction"]) for stage in visual.trunk.feature_info]
    if hasattr(visual, "layer4"):
        width = visual.conv3.out_channels
        return [(width, 4), (4 * width, 4), (8 * width, 8), (16 * width, 16), (32 * width, 32)]
    return [(visual.conv1.out_channels, visual.patch_size[0])] * visual.transformer.layers


# --- weights and tokenizer


def load_weights(network: Any, plan: ModelConfig, weights: str) -> str:
    """Puts the weights in; gives the sentence that says where they came from."""
    if weights == "none":
        return "random, as asked with --weights none"
    if weights == "offline":
        what = f"no offline package holds weights of {plan.label!r}"
        raise UsageError(what, where="backbone.weights", hint=f"--backbone {PREFIX}FOLDER")
    if weights in ("auto", "hub"):
        path, origin = _in_folder(plan, weights) if plan.folder else _from_hub(plan)
    else:
        path = Path(weights).expanduser()
        origin = f"file: {path.name}"
    load_into(network, _translated(network, read_tensors(path)), path)
    return origin


def _in_folder(plan: ModelConfig, weights: str) -> tuple[Path, str]:
    assert plan.folder is not None
    if weights == "hub":
        raise UsageError(
            "a folder's weights do not come from the hub",
            where="backbone.weights",
            hint="--weights auto",
        )
    for name in _FILES:
        if (plan.folder / name).is_file():
            return plan.folder / name, f"folder: {plan.label}/{name}"
    raise UsageError(
        f"this folder holds no {_FILES[0]}",
        where=plan.folder,
        hint="--weights FILE, or --weights none (random)",
    )


def _from_hub(plan: ModelConfig) -> tuple[Path, str]:
    import open_clip

    hint = f"give a local file with --weights FILE, a folder with --backbone {PREFIX}FOLDER, or --weights none"
    if plan.source is None:
        raise WeightsError(f"open_clip knows no pretrained weights of {plan.label!r}", hint=hint)
    try:
        return Path(open_clip.download_pretrained(plan.source)), f"hub: {plan.label}"
    except Exception as error:
        raise hub_error(f"the weights of {plan.label!r}", error, hint) from None


def _translated(network: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file in the names of two separate networks and at this network's size, by the steps that open_clip takes itself."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed

    try:
        tensors = convert_to_custom_text_state_dict(convert_state_dict(network, tensors))
        resize_pos_embed(tensors, network)
    except (KeyError, ValueError, RuntimeError, AttributeError):
        return tensors  # not a file of this architecture: `fill` says what does not fit
    own = dict(network.named_parameters(recurse=False))
    scalars = [
        name for name in own if name in tensors and own[name].numel() == tensors[name].numel()
    ]
    return tensors | {name: tensors[name].reshape(own[name].shape) for name in scalars}


def load_tokenizer(plan: ModelConfig) -> Any:
    """The folder's own, the architecture's from the hub, or where none is named the one that comes with open_clip; code that a
    folder brings along is never run."""
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = plan.model["text_cfg"]
    options = {
        "context_length": text.get("context_length", 77),
        **(text.get("tokenizer_kwargs") or {}),
    }
    name = text.get("hf_tokenizer_name")
    if not name:
        return SimpleTokenizer(**options)
    options |= {"tokenizer_mode": text.get("tokenizer_mode"), "trust_remote_code": False}
    try:
        return HFTokenizer(str(plan.folder or name), **options)
    except Exception as error:
        if plan.folder is None:
            hint = f"a folder with the tokenizer's files: --backbone {PREFIX}FOLDER"
            raise hub_error(f"the tokenizer {name!r}", error, hint) from None
        what, hint = (
            "this folder lacks the tokenizer of its text network",
            f"put the files of {name!r} there (tokenizer.json, ...)",
        )
        raise WeightsError(what, where=plan.folder, why=first_line(error), hint=hint) from None
