"""CLIP and SigLIP through open_clip: equal embeddings, for folders of tiny random models."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from foveate.api.evaluate import evaluate
from foveate.api.fit.core import fit_recipe
from foveate.api.models import models
from foveate.errors import HubUnreachable, MissingExtra, UnknownName, UsageError, WeightsError
from foveate.modeling.backbones import FAMILIES, TextBackbone
from foveate.modeling.model import build_model
from foveate.modeling.weights import weights_fingerprint
from foveate.recipe import with_settings
from foveate.run.folder import Run
from foveate.types import Provides
from helpers import probe_of, raise_no_route

open_clip = pytest.importorskip("open_clip")

TEXT = {"context_length": 12, "width": 16, "heads": 2, "layers": 2}
TEXTS = ("a red square", "two cats and a dog", "red")
VIT = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 5, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": TEXT,
    "quick_gelu": True,
}
RESNET = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
    "text_cfg": TEXT,
}
SIGLIP = {
    "embed_dim": 64,
    "custom_text": True,
    "init_logit_bias": -10,
    "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {
        **TEXT, "vocab_size": 9, "hf_tokenizer_name": "google/words", "no_causal_mask": True, "pool_type": "last", "proj_bias": True,
    },
}  # fmt: skip
CONFIGS = {"vit": VIT, "resnet": RESNET, "siglip": SIGLIP}


def save_model(folder: Path, config: dict, seed: int = 0) -> Path:
    """Save a random model in open_clip's format, with batch statistics that were updated once."""
    folder.mkdir()
    options = {name: value for name, value in deepcopy(config).items() if name != "custom_text"}
    torch.manual_seed(seed)
    model = (open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP)(**options)
    model.train().encode_image(torch.randn(4, 3, *[config["vision_cfg"]["image_size"]] * 2))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    content = {
        "model_cfg": config,
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(content), encoding="utf-8")
    if "hf_tokenizer_name" in config["text_cfg"]:
        save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        models.WordLevel(
            {"<pad>": 0, "<unk>": 1, "a": 2, "red": 3, "square": 4, "cats": 5, "dog": 6}, "<unk>"
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("clip")
    return {kind: save_model(root / kind, config) for kind, config in CONFIGS.items()}


@pytest.fixture(scope="module")
def family():
    return FAMILIES.get("clip")()


def open_backbone(
    family, folder: Path, weights: str = "auto", size: int | None = None
) -> TextBackbone:
    return family.open(f"clip:{folder}", weights, size).eval()


@pytest.mark.parametrize("kind", CONFIGS)
def test_embeddings_equal_open_clip(family, folders, kind):
    backbone = open_backbone(family, folders[kind])
    reference = open_clip.create_model(f"local-dir:{folders[kind]}").eval()
    images = torch.randn(2, 3, backbone.input.size, backbone.input.size)
    ids = open_clip.get_tokenizer(f"local-dir:{folders[kind]}")(list(TEXTS))
    with torch.inference_mode():
        assert torch.equal(
            backbone(images, {Provides.POOLED}).pooled, reference.encode_image(images)
        )
        assert torch.equal(backbone.tokenize(TEXTS), ids)
        assert torch.equal(backbone.embed_text(TEXTS), reference.encode_text(ids))
        assert torch.equal(
            backbone.encode_embeddings(backbone.embed_tokens(ids), ids), reference.encode_text(ids)
        )
        assert backbone.logit_scale == reference.logit_scale.exp()
        assert backbone.logit_bias == (-10 if kind == "siglip" else 0)
    assert backbone.input.mean == (0.5, 0.4, 0.3)
    assert backbone.origin == f"folder: {kind}/open_clip_model.safetensors"


@pytest.mark.parametrize("kind", CONFIGS)
def test_maps_and_tokens_come_with_the_embedding(family, folders, kind):
    backbone = open_backbone(family, folders[kind])
    images = torch.randn(2, 3, backbone.input.size, backbone.input.size)
    with torch.inference_mode():
        features = backbone(images, backbone.provides)
        assert torch.equal(features.pooled, backbone(images, {Provides.POOLED}).pooled)
    assert features.pooled.shape == (2, backbone.width)
    sides = [backbone.input.size // stride for stride in backbone.map_strides]
    assert [tuple(map_.shape) for map_ in features.maps] == [
        (2, width, side, side) for width, side in zip(backbone.map_widths, sides, strict=True)
    ]
    assert torch.equal(features.tokens, features.maps[-1].flatten(2).transpose(1, 2))
    assert len(features.maps) == (5 if kind == "resnet" else 4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_blocks_hold_the_image_encoder_only(family, folders, kind):
    backbone = open_backbone(family, folders[kind])
    in_blocks = [id(parameter) for block in backbone.blocks() for parameter in block.parameters()]
    outside_blocks = {
        name.rpartition(".")[2]
        for name, parameter in backbone.network.named_parameters()
        if id(parameter) not in in_blocks
    }
    assert len(in_blocks) == len(set(in_blocks))
    assert set(in_blocks) <= {id(parameter) for parameter in backbone.network.parameters()}
    assert outside_blocks <= {
        "class_embedding",
        "positional_embedding",
        "proj",
        "cls_token",
        "pos_embed",
    }
    assert len(backbone.blocks()) >= 4


def test_learned_context_replaces_token_embeddings(family, folders):
    backbone = open_backbone(family, folders["vit"])
    ids = backbone.tokenize(TEXTS)
    embeddings = backbone.embed_tokens(ids).detach()
    context = torch.zeros(embeddings.shape[-1], requires_grad=True)
    prompted = torch.cat([embeddings[:, :1], context.expand(len(ids), 1, -1), embeddings[:, 2:]], 1)
    backbone.encode_embeddings(prompted, ids).sum().backward()
    assert context.grad.abs().sum() > 0
    with torch.inference_mode():
        assert torch.equal(
            backbone.embed_text(TEXTS), backbone.encode_embeddings(embeddings, ids)
        )  # and the embedding table is restored


def test_position_embeddings_are_interpolated_to_another_size(family, folders):
    for kind, size in (("vit", 48), ("siglip", 96)):
        backbone = open_backbone(family, folders[kind], size=size)
        assert backbone.input.size == size
        assert backbone(torch.randn(1, 3, size, size), {Provides.POOLED}).pooled.isfinite().all()
    with pytest.raises(UsageError, match="fixed at 32 px"):
        open_backbone(family, folders["resnet"], size=64)


def test_a_weights_file_fits_a_configured_model(family, folders, tmp_path):
    """A torch file with a wrapper, text weights, and a logit scale of another shape."""
    tensors = load_file(save_model(tmp_path / "other", VIT, seed=1) / "open_clip_model.safetensors")
    tensors["logit_scale"] = tensors["logit_scale"].reshape(1)
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in tensors.items()}},
        tmp_path / "weights.pt",
    )
    backbone = open_backbone(family, folders["vit"], str(tmp_path / "weights.pt"))
    assert torch.equal(backbone.text.positional_embedding, tensors["positional_embedding"])
    assert backbone.origin == "file: weights.pt"
    with pytest.raises(WeightsError, match="do not fit"):
        open_backbone(family, folders["resnet"], str(tmp_path / "weights.pt"))


def test_random_weights_follow_the_seed(family, folders):
    fingerprints = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        fingerprints.append(
            weights_fingerprint(open_backbone(family, folders["vit"], "none").state_dict())
        )
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


# --- names


def test_a_tag_decides_preprocessing_and_activations_with_any_weights(family):
    from foveate.modeling.backbones._open_clip import resolve_config

    assert resolve_config("clip:ViT-B-32").label == "ViT-B-32.datacomp_xl_s13b_b90k"
    assert not resolve_config("clip:ViT-B-32").model["quick_gelu"]
    assert resolve_config("clip:ViT-B-32.openai").model["quick_gelu"]
    assert resolve_config("clip:ViT-B-16-SigLIP").pixels["mean"] == (0.5, 0.5, 0.5)
    assert resolve_config("clip:ViT-S-16").source is None


def test_models_lists_them_with_their_facts(family):
    (card,) = models("clip:ViT-S-32-alt").models
    backbone = family.open(card.name, "none")
    assert card.parameters == sum(parameter.numel() for parameter in backbone.parameters())
    assert (card.size, card.provides) == (224, ("maps", "pooled", "text", "tokens"))
    assert "clip:ViT-S-32-alt" in [model.name for model in models("clip:*S-32*").models]
    assert "clip:xlm-roberta-base-ViT-B-32" not in family.names()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("clip:ViT-B-23", UnknownName, "clip:ViT-B-32"),
        ("clip:ViT-B-32.openaj", UnknownName, r"clip:ViT-B-32\.openai"),
        ("clip:./nowhere", UsageError, "no folder at this path"),
    ],
)
def test_unknown_names_are_refused_with_similar_ones(quick, name, error, message):
    with pytest.raises(error, match=message):
        build_model(
            with_settings(
                quick, {"backbone.name": name, "task": "classify", "backbone.size": None}
            ),
            ("a", "b"),
        )


def test_without_the_extra_clip_is_not_listed(family, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for module in ("clip", "_open_clip"):
        monkeypatch.setattr(f"foveate.modeling.backbones.{module}.find_spec", lambda name: None)
    assert family.names() == []
    assert models("test_resnet").more == 0
    with pytest.raises(MissingExtra, match=r"\.\[clip\]"):
        family.open("clip:ViT-B-32", "none")


def test_other_backbones_do_not_import_open_clip():
    code = "from foveate.modeling.backbones import FAMILIES; known = FAMILIES.get('clip')().knows('resnet18')"
    subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; {code}; assert not known and 'open_clip' not in sys.modules",
        ],
        check=True,
    )


# --- errors


def copy_folder(folders, tmp_path, kind: str = "vit") -> Path:
    return Path(shutil.copytree(folders[kind], tmp_path / "broken"))


def test_a_folder_with_missing_files_names_them(family, folders, tmp_path):
    folder = copy_folder(folders, tmp_path)
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"no open_clip_model\.safetensors in this folder"):
        open_backbone(family, folder)
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(UsageError, match=r"no open_clip_config\.json in this folder"):
        open_backbone(family, folder)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"model_cfg": {"text_cfg": {}}}',
        '{"model_cfg": {"embed_dim": 8, "vision_cfg": {"layer": 1}, "text_cfg": {}}}',
        '{"model_cfg": {"embed_dim": 8, "vision_cfg": {"timm_model_name": "no_such"}, "text_cfg": {}}}',
        '{"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": {"mean": 0.5}}',
    ],
)
def test_an_invalid_model_config_is_refused(family, folders, tmp_path, content):
    folder = copy_folder(folders, tmp_path)
    (folder / "open_clip_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="cannot build this model"):
        open_backbone(family, folder)


def test_a_text_encoder_of_another_library_is_refused(family, folders, tmp_path):
    folder = copy_folder(folders, tmp_path)
    config = {"model_cfg": {**VIT, "text_cfg": {"hf_model_name": "xlm-roberta-base"}}}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UsageError, match="xlm-roberta-base"):
        open_backbone(family, folder)


def test_a_missing_tokenizer_is_reported_when_text_is_encoded(family, folders, tmp_path):
    folder = copy_folder(folders, tmp_path, "siglip")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    backbone = open_backbone(family, folder)
    assert backbone(torch.randn(1, 3, 160, 160), {Provides.POOLED}).pooled.shape == (1, 64)
    with pytest.raises(WeightsError, match="lacks the tokenizer"):
        backbone.embed_text(TEXTS)


def test_a_tokenizer_of_another_model_is_reported(family, folders, tmp_path):
    folder = copy_folder(folders, tmp_path, "siglip")
    config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    del config["model_cfg"]["text_cfg"]["hf_tokenizer_name"]
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(WeightsError, match="has 9 tokens"):
        open_backbone(family, folder).embed_text(TEXTS)


def test_t33_tokenizer_code_in_a_model_folder_is_not_run(family, folders, tmp_path, monkeypatch):
    folder = copy_folder(folders, tmp_path, "siglip")
    config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer_options = {}
    monkeypatch.setattr(
        "open_clip.tokenizer.HFTokenizer",
        lambda source, **options: tokenizer_options.update(options),
    )
    assert open_backbone(family, folder).tokenizer is None
    assert tokenizer_options["trust_remote_code"] is False


def test_unavailable_weights_suggest_what_to_try(family, folders, monkeypatch):
    monkeypatch.setattr(open_clip, "download_pretrained", raise_no_route)
    with pytest.raises(WeightsError, match="--weights FILE"):
        family.open("clip:ViT-S-32-alt", "hub")
    with pytest.raises(UsageError, match="no offline package"):
        open_backbone(family, folders["vit"], "offline")
    with pytest.raises(UsageError, match="does not apply to a folder"):
        open_backbone(family, folders["vit"], "hub")


def test_an_unreachable_hub_is_not_reported_as_a_wrong_name(family, monkeypatch):
    monkeypatch.setattr(open_clip, "download_pretrained", raise_no_route)
    monkeypatch.setattr(open_clip, "CustomTextCLIP", lambda **_: None)
    with pytest.raises(WeightsError, match="no route") as error:
        family.open("clip:ViT-B-32", "auto")
    assert not isinstance(error.value, HubUnreachable)


def test_stochastic_depth_is_refused_for_open_clip_networks(family, folders):
    with pytest.raises(UsageError, match="no stochastic depth"):
        family.open(f"clip:{folders['vit']}", "auto", drop_path=0.1)
    assert family.open(f"clip:{folders['siglip']}", "auto", drop_path=0.1).network.trunk.blocks[
        -1
    ].drop_path1.drop_prob == pytest.approx(0.1)


# --- fitting


@pytest.mark.parametrize("tuning", ["probe", "head", "full", "last"])
def test_a_fit_freezes_saves_and_loads(folders, quick, tmp_path, tuning):
    settings = {"backbone.name": f"clip:{folders['vit']}", "backbone.weights": "auto"}
    recipe = with_settings(quick, {**settings, "tuning": tuning, "training.epochs": 1})
    recipe = probe_of(recipe) if tuning == "probe" else recipe
    result = fit_recipe(recipe, tmp_path / "run")
    start = load_file(folders["vit"] / "open_clip_model.safetensors")
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert bool(Run.open(result.run).outcome()["frozen"]) == (tuning != "full")
    assert ("backbone.network.conv1.weight" in saved) == (tuning == "full")
    if tuning == "full":
        assert not torch.equal(saved["backbone.network.conv1.weight"], start["visual.conv1.weight"])
        assert torch.equal(
            saved["backbone.text.token_embedding.weight"], start["token_embedding.weight"]
        )
    evaluation = evaluate(result.run)
    assert (
        evaluation.scores.numbers["accuracy"].value
        == result.evaluation.scores.numbers["accuracy"].value
    )
