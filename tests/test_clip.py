"""CLIP and SigLIP through open_clip: the same embeddings as its own, from folders of tiny random models."""

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

open_clip = pytest.importorskip("open_clip")

TEXT = {"context_length": 12, "width": 16, "heads": 2, "layers": 2}
WORDS = ("a red square", "two cats and a dog", "red")
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
KINDS = {"vit": VIT, "resnet": RESNET, "siglip": SIGLIP}


def saved(folder: Path, config: dict, seed: int = 0) -> Path:
    """A random model in open_clip's format; its batch statistics are no longer those of a fresh one."""
    folder.mkdir()
    words = {word: value for word, value in deepcopy(config).items() if word != "custom_text"}
    torch.manual_seed(seed)
    model = (open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP)(**words)
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

    words = Tokenizer(
        models.WordLevel(
            {"<pad>": 0, "<unk>": 1, "a": 2, "red": 3, "square": 4, "cats": 5, "dog": 6}, "<unk>"
        )
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("clip")
    return {kind: saved(root / kind, config) for kind, config in KINDS.items()}


@pytest.fixture(scope="module")
def family():
    return FAMILIES.get("clip")()


def opened(family, folder: Path, weights: str = "auto", size: int | None = None) -> TextBackbone:
    return family.open(f"clip:{folder}", weights, size).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_those_of_open_clip(family, folders, kind):
    ours = opened(family, folders[kind])
    theirs = open_clip.create_model(f"local-dir:{folders[kind]}").eval()
    images = torch.randn(2, 3, ours.input.size, ours.input.size)
    ids = open_clip.get_tokenizer(f"local-dir:{folders[kind]}")(list(WORDS))
    with torch.inference_mode():
        assert torch.equal(ours(images, {Provides.POOLED}).pooled, theirs.encode_image(images))
        assert torch.equal(ours.tokenize(WORDS), ids)
        assert torch.equal(ours.embed_text(WORDS), theirs.encode_text(ids))
        assert torch.equal(
            ours.encode_embeddings(ours.embed_tokens(ids), ids), theirs.encode_text(ids)
        )
        assert ours.logit_scale == theirs.logit_scale.exp()
        assert ours.logit_bias == (-10 if kind == "siglip" else 0)
    assert ours.input.mean == (0.5, 0.4, 0.3)
    assert ours.origin == f"folder: {kind}/open_clip_model.safetensors"


@pytest.mark.parametrize("kind", KINDS)
def test_maps_and_tokens_come_with_the_embedding(family, folders, kind):
    ours = opened(family, folders[kind])
    images = torch.randn(2, 3, ours.input.size, ours.input.size)
    with torch.inference_mode():
        together = ours(images, ours.provides)
        assert torch.equal(together.pooled, ours(images, {Provides.POOLED}).pooled)
    assert together.pooled.shape == (2, ours.width)
    sides = [ours.input.size // stride for stride in ours.map_strides]
    assert [tuple(found.shape) for found in together.maps] == [
        (2, width, side, side) for width, side in zip(ours.map_widths, sides, strict=True)
    ]
    assert torch.equal(together.tokens, together.maps[-1].flatten(2).transpose(1, 2))
    assert len(together.maps) == (5 if kind == "resnet" else 4)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_hold_the_image_network_and_nothing_of_the_text(family, folders, kind):
    ours = opened(family, folders[kind])
    held = [id(parameter) for block in ours.blocks() for parameter in block.parameters()]
    beside = {
        name.rpartition(".")[2]
        for name, parameter in ours.network.named_parameters()
        if id(parameter) not in held
    }
    assert len(held) == len(set(held))
    assert set(held) <= {id(parameter) for parameter in ours.network.parameters()}
    assert beside <= {"class_embedding", "positional_embedding", "proj", "cls_token", "pos_embed"}
    assert len(ours.blocks()) >= 4


def test_learnt_words_take_the_place_of_the_table(family, folders):
    ours = opened(family, folders["vit"])
    ids = ours.tokenize(WORDS)
    words = ours.embed_tokens(ids).detach()
    context = torch.zeros(words.shape[-1], requires_grad=True)
    prompted = torch.cat([words[:, :1], context.expand(len(ids), 1, -1), words[:, 2:]], 1)
    ours.encode_embeddings(prompted, ids).sum().backward()
    assert context.grad.abs().sum() > 0
    with torch.inference_mode():
        assert torch.equal(
            ours.embed_text(WORDS), ours.encode_embeddings(words, ids)
        )  # and the table is its own again


def test_positions_are_stretched_to_another_size(family, folders):
    for kind, size in (("vit", 48), ("siglip", 96)):
        ours = opened(family, folders[kind], size=size)
        assert ours.input.size == size
        assert ours(torch.randn(1, 3, size, size), {Provides.POOLED}).pooled.isfinite().all()
    with pytest.raises(UsageError, match="fixed at 32 px"):
        opened(family, folders["resnet"], size=64)


def test_a_file_brings_the_weights_of_a_described_model(family, folders, tmp_path):
    """A torch file in a wrapper, with the text's parts beside the image's and a scale of another shape."""
    tensors = load_file(saved(tmp_path / "other", VIT, seed=1) / "open_clip_model.safetensors")
    tensors["logit_scale"] = tensors["logit_scale"].reshape(1)
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in tensors.items()}},
        tmp_path / "weights.pt",
    )
    ours = opened(family, folders["vit"], str(tmp_path / "weights.pt"))
    assert torch.equal(ours.text.positional_embedding, tensors["positional_embedding"])
    assert ours.origin == "file: weights.pt"
    with pytest.raises(WeightsError, match="do not fit"):
        opened(family, folders["resnet"], str(tmp_path / "weights.pt"))


def test_random_weights_follow_the_seed(family, folders):
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(weights_fingerprint(opened(family, folders["vit"], "none").state_dict()))
    assert drawn[0] == drawn[1] != drawn[2]


# --- names


def test_a_tag_decides_preprocessing_and_activations_with_any_weights(family):
    from foveate.modeling.backbones._open_clip import resolve_config

    assert resolve_config("clip:ViT-B-32").label == "ViT-B-32.datacomp_xl_s13b_b90k"
    assert not resolve_config("clip:ViT-B-32").model["quick_gelu"]
    assert resolve_config("clip:ViT-B-32.openai").model["quick_gelu"]
    assert resolve_config("clip:ViT-B-16-SigLIP").pixels["mean"] == (0.5, 0.5, 0.5)
    assert resolve_config("clip:ViT-S-16").source is None


def test_models_lists_them_with_their_facts(family):
    (card,) = models("clip:ViT-S-32-alt").cards
    ours = family.open(card.name, "none")
    assert card.parameters == sum(parameter.numel() for parameter in ours.parameters())
    assert (card.size, card.provides) == (224, ("maps", "pooled", "text", "tokens"))
    assert "clip:ViT-S-32-alt" in [found.name for found in models("clip:*S-32*").cards]
    assert "clip:xlm-roberta-base-ViT-B-32" not in family.names()


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("clip:ViT-B-23", UnknownName, "clip:ViT-B-32"),
        ("clip:ViT-B-32.openaj", UnknownName, r"clip:ViT-B-32\.openai"),
        ("clip:./nowhere", UsageError, "no folder at this path"),
    ],
)
def test_names_that_mean_nothing_are_refused_with_near_ones(quick, name, error, says):
    with pytest.raises(error, match=says):
        build_model(
            with_settings(
                quick, {"backbone.name": name, "task": "classify", "backbone.size": None}
            ),
            ("a", "b"),
        )


def test_without_the_extra_nothing_is_listed_and_only_clip_is_missed(family, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for room in ("clip", "_open_clip"):
        monkeypatch.setattr(f"foveate.modeling.backbones.{room}.find_spec", lambda name: None)
    assert family.names() == []
    assert models("test_resnet").more == 0
    with pytest.raises(MissingExtra, match=r"foveate\[clip\]"):
        family.open("clip:ViT-B-32", "none")


def test_other_backbones_do_not_import_open_clip():
    ask = "from foveate.modeling.backbones import FAMILIES; known = FAMILIES.get('clip')().knows('resnet18')"
    subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; {ask}; assert not known and 'open_clip' not in sys.modules",
        ],
        check=True,
    )


# --- what can be wrong


def broken(folders, tmp_path, kind: str = "vit") -> Path:
    return Path(shutil.copytree(folders[kind], tmp_path / "broken"))


def test_a_folder_without_its_parts_says_which(family, folders, tmp_path):
    folder = broken(folders, tmp_path)
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"no open_clip_model\.safetensors in this folder"):
        opened(family, folder)
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(UsageError, match=r"no open_clip_config\.json in this folder"):
        opened(family, folder)


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
def test_a_description_that_means_nothing_is_refused(family, folders, tmp_path, content):
    folder = broken(folders, tmp_path)
    (folder / "open_clip_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="cannot build this model"):
        opened(family, folder)


def test_a_text_network_of_another_library_is_refused(family, folders, tmp_path):
    folder = broken(folders, tmp_path)
    config = {"model_cfg": {**VIT, "text_cfg": {"hf_model_name": "xlm-roberta-base"}}}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UsageError, match="xlm-roberta-base"):
        opened(family, folder)


def test_a_missing_tokenizer_is_told_when_sentences_come(family, folders, tmp_path):
    folder = broken(folders, tmp_path, "siglip")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    ours = opened(family, folder)
    assert ours(torch.randn(1, 3, 160, 160), {Provides.POOLED}).pooled.shape == (1, 64)
    with pytest.raises(WeightsError, match="lacks the tokenizer"):
        ours.embed_text(WORDS)


def test_a_tokenizer_of_another_model_is_told(family, folders, tmp_path):
    folder = broken(folders, tmp_path, "siglip")
    config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    del config["model_cfg"]["text_cfg"]["hf_tokenizer_name"]
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(WeightsError, match="has 9 tokens"):
        opened(family, folder).embed_text(WORDS)


def test_t33_a_folder_runs_no_code_of_its_tokenizer(family, folders, tmp_path, monkeypatch):
    folder = broken(folders, tmp_path, "siglip")
    config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    seen = {}
    monkeypatch.setattr(
        "open_clip.tokenizer.HFTokenizer", lambda source, **options: seen.update(options)
    )
    assert opened(family, folder).tokenizer is None
    assert seen["trust_remote_code"] is False


def test_weights_that_cannot_be_had_say_what_to_try(family, folders, monkeypatch):
    monkeypatch.setattr(open_clip, "download_pretrained", _no_hub)
    with pytest.raises(WeightsError, match="--weights FILE"):
        family.open("clip:ViT-S-32-alt", "hub")
    with pytest.raises(UsageError, match="no offline package"):
        opened(family, folders["vit"], "offline")
    with pytest.raises(UsageError, match="does not apply to a folder"):
        opened(family, folders["vit"], "hub")


def test_no_hub_is_no_fault_of_the_name(family, monkeypatch):
    monkeypatch.setattr(open_clip, "download_pretrained", _no_hub)
    monkeypatch.setattr(open_clip, "CustomTextCLIP", lambda **_: None)
    with pytest.raises(WeightsError, match="no route") as told:
        family.open("clip:ViT-B-32", "auto")
    assert not isinstance(told.value, HubUnreachable)


def _no_hub(*_, **__):
    raise OSError("no route to host")


def test_no_stochastic_depth_in_open_clips_own_networks(family, folders):
    with pytest.raises(UsageError, match="no stochastic depth"):
        family.open(f"clip:{folders['vit']}", "auto", drop_path=0.1)
    assert family.open(f"clip:{folders['siglip']}", "auto", drop_path=0.1).network.trunk.blocks[
        -1
    ].drop_path1.drop_prob == pytest.approx(0.1)


# --- as a backbone like any other


@pytest.mark.parametrize("tuning", ["probe", "head", "full", "last"])
def test_a_fit_freezes_saves_and_loads(folders, quick, tmp_path, tuning):
    words = {
        "backbone.name": f"clip:{folders['vit']}",
        "backbone.weights": "auto",
        "tuning": tuning,
        "training.epochs": 1,
    }
    found = fit_recipe(with_settings(quick, words), tmp_path / "run")
    start = load_file(folders["vit"] / "open_clip_model.safetensors")
    kept = load_file(tmp_path / "run" / "model.safetensors")
    assert bool(Run.open(found.run).outcome()["frozen"]) == (tuning != "full")
    assert ("backbone.network.conv1.weight" in kept) == (tuning == "full")
    if tuning == "full":
        assert not torch.equal(kept["backbone.network.conv1.weight"], start["visual.conv1.weight"])
        assert torch.equal(
            kept["backbone.text.token_embedding.weight"], start["token_embedding.weight"]
        )
    again = evaluate(found.run)
    assert (
        again.scores.numbers["accuracy"].value == found.evaluation.scores.numbers["accuracy"].value
    )
