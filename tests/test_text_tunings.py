"""Tunings by sentences, on a tiny CLIP that has learnt coloured shapes: better than chance at once, and better still when adapted."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch.nn import functional

import foveate
from foveate.api.evaluate import evaluate
from foveate.api.fit.core import fit_recipe
from foveate.errors import UsageError
from foveate.inference.predictor import load_predictor
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.model import build_model
from foveate.modeling.tunings import TUNINGS
from foveate.modeling.weights import read_tensors, weights_fingerprint
from foveate.recipe import Recipe, with_settings
from foveate.run.folder import Run
from foveate.types import Features
from helpers import fit_unevaluated

open_clip = pytest.importorskip("open_clip")

BY_TEXT = ("zeroshot", "tip", "tip_f", "coop", "clip_lora", "cocoop")
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 220)}
SHAPES = ("circle", "square", "triangle")
CLASSES = tuple(sorted(f"{colour}_{shape}" for colour in COLOURS for shape in SHAPES))
TEMPLATES = ["a photo of a {}.", "a {}.", "one {} on a wall"]
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 2},
}
PIXELS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def drawn(rng: np.random.Generator, name: str, odd: bool = False) -> np.ndarray:
    """(32, 32, 3) uint8: a shape on gray; an odd one is faint, on darker ground and in more noise."""
    colour, shape = name.split("_")
    ground = int(rng.integers(70, 150) if odd else rng.integers(130, 256))
    image = Image.new("RGB", (32, 32), (ground,) * 3)
    size, left, top = (int(rng.integers(*bounds)) for bounds in ((16, 24), (1, 7), (1, 7)))
    box = (left, top, left + size, top + size)
    shade = (
        tuple(int((ground + value) / 2) for value in COLOURS[colour]) if odd else COLOURS[colour]
    )
    if shape == "triangle":
        ImageDraw.Draw(image).polygon(
            [(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) / 2, box[1])], fill=shade
        )
    else:
        getattr(ImageDraw.Draw(image), {"circle": "ellipse", "square": "rectangle"}[shape])(
            box, fill=shade
        )
    return np.clip(np.asarray(image) + rng.normal(0, 12 if odd else 5, (32, 32, 3)), 0, 255).astype(
        np.uint8
    )


def normalised(pictures: list[np.ndarray]) -> torch.Tensor:
    return (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def contrast(logits: torch.Tensor) -> torch.Tensor:
    own = torch.arange(len(logits))
    return functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A folder in open_clip's format; trained with the symmetric loss of CLIP on a picture of every class a step."""
    folder, rng = tmp_path_factory.mktemp("clip"), np.random.default_rng(0)
    torch.manual_seed(0)
    model = open_clip.CLIP(**deepcopy(CONFIG))
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    pool = {name: normalised([drawn(rng, name) for _ in range(150)]) for name in CLASSES}
    said = {
        t: tokenizer([t.replace("{}", name.replace("_", " ")) for name in CLASSES])
        for t in TEMPLATES
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    steps = 300
    for step in range(steps):
        texts = model.encode_text(said[TEMPLATES[step % 3]], normalize=True)
        images = torch.stack([pool[name][rng.integers(150, size=3)] for name in CLASSES], 1)
        seen = model.encode_image(images.flatten(0, 1), normalize=True).split(len(CLASSES))
        loss = sum(contrast(model.logit_scale.exp() * view @ texts.T) for view in seen)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, step / 20) * (1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PIXELS}), encoding="utf-8"
    )
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """A folder per class with named splits: 4 images to train, 4 to validate, 20 to test, all odd."""
    root, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(1)
    for split, count in (("train", 4), ("val", 4), ("test", 20)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(drawn(rng, name, odd=True)).save(
                    root / split / name / f"{number:02d}.png"
                )
    return root


def recipe(shapes, clip, tuning: str, **more) -> Recipe:
    words = {
        "data.path": str(shapes),
        "backbone.name": f"clip:{clip}",
        "tuning": tuning,
        "device": "cpu",
        "augment.crop": 1,
    }
    words |= {
        "training.precision": "fp32",
        "training.channels_last": False,
        "augment.flip": 0.0,
        "training.batch_size": 12,
    }
    return with_settings(Recipe(), {**words, **more})


@pytest.fixture(scope="module")
def zero(shapes, clip, tmp_path_factory):
    return fit_recipe(
        recipe(shapes, clip, "zeroshot", **{"tuning.templates": TEMPLATES}),
        tmp_path_factory.mktemp("zero") / "run",
    )


FEW = {
    "tip": {},
    "tip_f": {"training.epochs": 10},
    "coop": {"training.epochs": 10, "training.lr": 0.02},
    "clip_lora": {"training.epochs": 15, "training.lr": 3e-3},
    "cocoop": {"training.epochs": 3, "training.lr": 0.02},
}


def pictures(shapes) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the test: normalised, and their classes."""
    files = [
        (file, place)
        for place, name in enumerate(CLASSES)
        for file in sorted((shapes / "test" / name).iterdir())
    ]
    return normalised([np.asarray(Image.open(file)) for file, _ in files]), torch.tensor(
        [place for _, place in files]
    )


def test_zero_shot_is_open_clips_own_and_better_than_chance(shapes, clip, zero):
    model = open_clip.create_model(f"local-dir:{clip}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip}")
    spoken = [name.replace("_", " ") for name in CLASSES]
    templates = [lambda name, text=text: text.replace("{}", name) for text in TEMPLATES]
    words = open_clip.build_zero_shot_classifier(model, tokenizer, spoken, templates)
    images, truth = pictures(shapes)
    loaded = load_predictor(zero.run, "cpu").model
    with torch.inference_mode():
        theirs = model.logit_scale.exp() * model.encode_image(images, normalize=True) @ words
        torch.testing.assert_close(
            loaded.head(loaded.backbone(images, loaded.task.needs)), theirs, rtol=1e-4, atol=1e-4
        )
    accuracy = zero.numbers()["accuracy"]
    assert accuracy == pytest.approx(float((theirs.argmax(1) == truth).float().mean()), abs=0.012)
    assert zero.numbers()["low"] > 2 / len(CLASSES)


@pytest.mark.parametrize("tuning", BY_TEXT[1:])
def test_a_few_images_teach_it_more(shapes, clip, zero, tmp_path, tuning):
    found = fit_recipe(recipe(shapes, clip, tuning, **FEW[tuning]), tmp_path / "run")
    assert found.numbers()["log_loss"] < zero.numbers()["log_loss"]
    if tuning == "clip_lora":
        assert found.numbers()["accuracy"] > zero.numbers()["accuracy"]
    assert (
        evaluate(found.run, split="test").scores.numbers["accuracy"].value
        == found.numbers()["accuracy"]
    )
    kept = read_tensors(found.run / "model.safetensors", verbatim=True)
    assert not any(name.startswith("backbone.") and "parametrizations" not in name for name in kept)
    if tuning == "clip_lora":
        assert_merging_changes_nothing(found.run, pictures(shapes)[0][:8])


def assert_merging_changes_nothing(run: Path, images: torch.Tensor) -> None:
    """The merged network is the plain one by name, with the same answers."""
    opened = Run.open(run)
    model = build_model(opened.recipe(), opened.classes())
    model.load_tensors(read_tensors(run / "model.safetensors", verbatim=True))
    with torch.inference_mode():
        before = model.head(model.backbone(images, model.task.needs))
        model.merge()
        after = model.head(model.backbone(images, model.task.needs))
    plain = build_model(with_settings(opened.recipe(), {"tuning": "probe"}), opened.classes())
    assert set(model.backbone.state_dict()) == set(plain.backbone.state_dict())
    own, came = model.backbone.state_dict(), plain.backbone.state_dict()
    moved = {name.rpartition(".")[2] for name in own if not torch.equal(own[name], came[name])}
    assert moved == {"in_proj_weight"}
    assert all(
        not torch.equal(own[name], came[name]) for name in own if name.endswith("in_proj_weight")
    )
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tuning", BY_TEXT)
def test_what_is_frozen_stays_and_what_is_saved_is_enough(shapes, clip, tuning):
    asked = with_settings(
        recipe(shapes, clip, tuning), {"task": "classify", "task.multilabel": False}
    )
    model, images = build_model(asked, CLASSES), torch.randn(6, 3, 32, 32)
    if "tip" in tuning:
        features = torch.randn(12, 32).numpy()
        model.tuning.fit_head(
            model,
            LabeledFeatures(features, np.eye(len(CLASSES))[np.arange(12) % 9], np.arange(12) % 3),
        )
    before = weights_fingerprint(model.frozen_tensors())
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert bool(moving) == model.tuning.needs_steps
    for _ in range(2 if moving else 0):
        optimizer = torch.optim.SGD(moving, lr=0.01)
        model.train().zero_grad()
        functional.cross_entropy(
            model.head(model.backbone(images, model.task.needs)), torch.arange(6)
        ).backward()
        assert all(parameter.grad is not None for parameter in moving)
        optimizer.step()
    assert weights_fingerprint(model.frozen_tensors()) == before
    again = build_model(asked, CLASSES)
    again.load_tensors(
        {name: tensor.clone() for name, tensor in model.eval().trained_tensors().items()}
    )
    with torch.inference_mode():
        assert torch.equal(
            *(each.head(each.backbone(images, each.task.needs)) for each in (model, again))
        )


def test_the_cache_votes_as_the_paper_says(shapes, clip):
    """Equations 4 to 6 of Tip-Adapter, written out image by image."""
    model = build_model(with_settings(recipe(shapes, clip, "tip"), {"task": "classify"}), CLASSES)
    features, owners = torch.randn(10, 32), torch.arange(10) % 9
    model.tuning.fit_head(
        model, LabeledFeatures(features.numpy(), np.eye(9)[owners.numpy()], np.arange(10) % 2)
    )
    model.head.alpha.fill_(1.5)
    model.head.beta.fill_(3.0)
    image = torch.randn(1, 32)
    unit = image[0] / image[0].norm()
    expected = model.backbone.logit_scale * model.head.text @ unit
    for key, owner in zip(features, owners, strict=True):
        expected[owner] += 1.5 * torch.exp(-3.0 * (1 - key @ unit / key.norm()))
    torch.testing.assert_close(
        model.head(Features(pooled=image))[0], expected.detach(), rtol=1e-4, atol=1e-4
    )


def test_learnt_words_stand_where_words_stood(shapes, clip):
    """Before a step, 'a photo of a' and a name are that sentence."""
    model = build_model(with_settings(recipe(shapes, clip, "coop"), {"task": "classify"}), CLASSES)
    with torch.inference_mode():
        said = model.backbone.embed_text(
            [f"a photo of a {name.replace('_', ' ')}." for name in CLASSES]
        )
        torch.testing.assert_close(
            model.head.embed_classes(), functional.normalize(said, dim=1), rtol=1e-4, atol=1e-5
        )
    own = build_model(
        with_settings(recipe(shapes, clip, "coop"), {"task": "classify", "tuning.per_class": True}),
        CLASSES,
    )
    assert own.head.context.shape == (9, 4, 32)


# --- a class without images, and no held-out images


def test_a_class_needs_no_training_image(shapes, clip, tmp_path, capsys):
    root = Path(shutil.copytree(shapes, tmp_path / "data"))
    shutil.rmtree(root / "train" / "red_square")
    shutil.rmtree(root / "val")
    found = fit_recipe(
        recipe(root, clip, "zeroshot", **{"data.val": 0, "tuning.templates": TEMPLATES}),
        tmp_path / "run",
    )
    assert "has no training image" not in capsys.readouterr().err + capsys.readouterr().out
    assert Run.open(found.run).outcome()["images"] == {"train": 32, "test": 180}
    assert found.numbers()["count"] == 180


def test_a_cache_goes_on_with_more_images(shapes, clip, tmp_path):
    first = fit_unevaluated(recipe(shapes, clip, "tip"), tmp_path / "first").run
    more, rng = tmp_path / "more", np.random.default_rng(7)
    for name in (*CLASSES, "red_star"):
        (more / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(drawn(rng, name.replace("star", "square"), odd=True)).save(
                more / name / f"{number}.png"
            )
    run = Run.open(
        foveate.continue_(
            first, more, out=tmp_path / "second", settings={"data.near_duplicates": 1}
        ).run
    )
    kept = read_tensors(run.folder / "model.safetensors", verbatim=True)
    assert run.classes()[-1] == "red_star"
    assert (
        len(kept["head.keys"]) == len(kept["head.labels"]) == run.outcome()["images"]["train"] > 36
    )


# --- words


@pytest.mark.parametrize(
    ("tuning", "settings", "says"),
    [
        ("coop", {"prompts": {name: [name, name] for name in CLASSES}}, "several prompts"),
        ("tip", {"prompts": dict.fromkeys(CLASSES, "")}, "an empty one"),
        ("coop", {"context": 14}, "leave too few tokens"),
        ("cocoop", {"context": 99}, "leave too few tokens"),
    ],
)
def test_words_that_cannot_be_asked_get_a_sentence(shapes, clip, tmp_path, tuning, settings, says):
    asked = recipe(
        shapes, clip, tuning, **{f"tuning.{word}": value for word, value in settings.items()}
    )
    with pytest.raises(UsageError, match=says) as told:
        fit_recipe(asked, tmp_path / "run")
    assert told.value.hint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tuning", BY_TEXT)
def test_several_classes_an_image_are_refused(shapes, clip, tuning):
    with pytest.raises(UsageError, match="one class per image"):
        build_model(
            with_settings(
                recipe(shapes, clip, tuning), {"task": "classify", "task.multilabel": True}
            ),
            CLASSES,
        )


def test_a_cache_that_nothing_was_put_into_is_not_trained(shapes, clip, tmp_path):
    with pytest.raises(UsageError, match="holds no training image"):
        fit_recipe(
            recipe(shapes, clip, "tip_f", **{"training.head_init": "random"}), tmp_path / "run"
        )


def test_every_tuning_of_the_shelf_is_here():
    assert set(BY_TEXT) <= set(TUNINGS.names())
