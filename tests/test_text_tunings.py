"""Text tunings of a tiny CLIP trained on colored shapes: zero-shot and few-shot."""

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
from helpers import fit_unevaluated, make_once_per_session

open_clip = pytest.importorskip("open_clip")

TEXT_TUNINGS = ("zeroshot", "tip", "tip_f", "coop", "clip_lora", "cocoop")
COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 220)}
SHAPES = ("circle", "square", "triangle")
CLASSES = tuple(sorted(f"{color}_{shape}" for color in COLORS for shape in SHAPES))
TEMPLATES = ["a photo of a {}.", "a {}.", "one {} on a wall"]
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 2},
}
PIXELS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def draw_shape(rng: np.random.Generator, name: str, shifted: bool = False) -> np.ndarray:
    """Draw a shape on gray, (32, 32, 3) uint8; if shifted, fainter, darker and with more noise."""
    color, shape = name.split("_")
    background = int(rng.integers(70, 150) if shifted else rng.integers(130, 256))
    image = Image.new("RGB", (32, 32), (background,) * 3)
    size, left, top = (int(rng.integers(*bounds)) for bounds in ((16, 24), (1, 7), (1, 7)))
    box = (left, top, left + size, top + size)
    fill_color = (
        tuple(int((background + value) / 2) for value in COLORS[color])
        if shifted
        else COLORS[color]
    )
    if shape == "triangle":
        ImageDraw.Draw(image).polygon(
            [(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) / 2, box[1])], fill=fill_color
        )
    else:
        getattr(ImageDraw.Draw(image), {"circle": "ellipse", "square": "rectangle"}[shape])(
            box, fill=fill_color
        )
    return np.clip(
        np.asarray(image) + rng.normal(0, 12 if shifted else 5, (32, 32, 3)), 0, 255
    ).astype(np.uint8)


def normalize(images: list[np.ndarray]) -> torch.Tensor:
    return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def clip_loss(logits: torch.Tensor) -> torch.Tensor:
    labels = torch.arange(len(logits))
    return functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A trained model in open_clip's format."""
    return make_once_per_session(tmp_path_factory, "shape_clip", train_clip)


def train_clip(folder: Path) -> None:
    """Train with the symmetric loss of CLIP, on images of every class in each step."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = open_clip.CLIP(**deepcopy(CONFIG))
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    pool = {name: normalize([draw_shape(rng, name) for _ in range(150)]) for name in CLASSES}
    token_ids = {
        t: tokenizer([t.replace("{}", name.replace("_", " ")) for name in CLASSES])
        for t in TEMPLATES
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    steps = 300
    for step in range(steps):
        texts = model.encode_text(token_ids[TEMPLATES[step % 3]], normalize=True)
        images = torch.stack([pool[name][rng.integers(150, size=3)] for name in CLASSES], 1)
        image_features = model.encode_image(images.flatten(0, 1), normalize=True).split(
            len(CLASSES)
        )
        loss = sum(clip_loss(model.logit_scale.exp() * view @ texts.T) for view in image_features)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, step / 20) * (1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PIXELS}), encoding="utf-8"
    )


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """A folder per class with named splits: 4, 4 and 20 images, all from a shifted domain."""
    root, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(1)
    for split, count in (("train", 4), ("val", 4), ("test", 20)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw_shape(rng, name, shifted=True)).save(
                    root / split / name / f"{number:02d}.png"
                )
    return root


def make_recipe(shapes, clip, tuning: str, **more) -> Recipe:
    settings = {
        "data.path": str(shapes),
        "backbone.name": f"clip:{clip}",
        "tuning": tuning,
        "device": "cpu",
        "training.precision": "fp32",
        "training.channels_last": False,
        "training.batch_size": 12,
    }
    if TUNINGS.get(tuning).needs_steps:
        settings |= {"augment.crop": 1, "augment.flip": 0.0}
    return with_settings(Recipe(), {**settings, **more})


@pytest.fixture(scope="module")
def zeroshot_result(shapes, clip, tmp_path_factory):
    return fit_recipe(
        make_recipe(shapes, clip, "zeroshot", **{"tuning.templates": TEMPLATES}),
        tmp_path_factory.mktemp("zero") / "run",
    )


SETTINGS = {
    "tip": {},
    "tip_f": {"training.epochs": 10},
    "coop": {"training.epochs": 10, "training.lr": 0.02},
    "clip_lora": {"training.epochs": 15, "training.lr": 3e-3},
    "cocoop": {"training.epochs": 3, "training.lr": 0.02},
}


def read_test_images(shapes) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the test images, normalized, and their class indices."""
    files = [
        (file, index)
        for index, name in enumerate(CLASSES)
        for file in sorted((shapes / "test" / name).iterdir())
    ]
    return normalize([np.asarray(Image.open(file)) for file, _ in files]), torch.tensor(
        [index for _, index in files]
    )


def test_zero_shot_equals_open_clip_and_beats_chance(shapes, clip, zeroshot_result):
    model = open_clip.create_model(f"local-dir:{clip}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip}")
    names = [name.replace("_", " ") for name in CLASSES]
    templates = [lambda name, text=text: text.replace("{}", name) for text in TEMPLATES]
    text_weights = open_clip.build_zero_shot_classifier(model, tokenizer, names, templates)
    images, target = read_test_images(shapes)
    loaded = load_predictor(zeroshot_result.run, "cpu").model
    with torch.inference_mode():
        expected = (
            model.logit_scale.exp() * model.encode_image(images, normalize=True) @ text_weights
        )
        torch.testing.assert_close(
            loaded.head(loaded.backbone(images, loaded.task.needs)), expected, rtol=1e-4, atol=1e-4
        )
    accuracy = zeroshot_result.numbers()["accuracy"]
    assert accuracy == pytest.approx(
        float((expected.argmax(1) == target).float().mean()), abs=0.012
    )
    assert zeroshot_result.numbers()["low"] > 2 / len(CLASSES)


@pytest.mark.parametrize("tuning", TEXT_TUNINGS[1:])
def test_few_shots_improve_on_zero_shot(shapes, clip, zeroshot_result, tmp_path, tuning):
    result = fit_recipe(make_recipe(shapes, clip, tuning, **SETTINGS[tuning]), tmp_path / "run")
    assert result.numbers()["log_loss"] < zeroshot_result.numbers()["log_loss"]
    if tuning == "clip_lora":
        assert result.numbers()["accuracy"] > zeroshot_result.numbers()["accuracy"]
    assert (
        evaluate(result.run, split="test").scores.numbers["accuracy"].value
        == result.numbers()["accuracy"]
    )
    saved = read_tensors(result.run / "model.safetensors", verbatim=True)
    assert not any(
        name.startswith("backbone.") and "parametrizations" not in name for name in saved
    )
    if tuning == "clip_lora":
        assert_merging_changes_nothing(result.run, read_test_images(shapes)[0][:8])


def assert_merging_changes_nothing(run: Path, images: torch.Tensor) -> None:
    """The merged network has the parameter names of the plain one, and the same outputs."""
    folder = Run.open(run)
    model = build_model(folder.recipe(), folder.classes())
    model.load_tensors(read_tensors(run / "model.safetensors", verbatim=True))
    with torch.inference_mode():
        before = model.head(model.backbone(images, model.task.needs))
        model.merge()
        after = model.head(model.backbone(images, model.task.needs))
    plain = build_model(with_settings(folder.recipe(), {"tuning": "probe"}), folder.classes())
    assert set(model.backbone.state_dict()) == set(plain.backbone.state_dict())
    merged, original = model.backbone.state_dict(), plain.backbone.state_dict()
    changed = {
        name.rpartition(".")[2] for name in merged if not torch.equal(merged[name], original[name])
    }
    assert changed == {"in_proj_weight"}
    assert all(
        not torch.equal(merged[name], original[name])
        for name in merged
        if name.endswith("in_proj_weight")
    )
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tuning", TEXT_TUNINGS)
def test_frozen_weights_do_not_change_and_saved_ones_suffice(shapes, clip, tuning):
    recipe = with_settings(
        make_recipe(shapes, clip, tuning), {"task": "classify", "task.multilabel": False}
    )
    model, images = build_model(recipe, CLASSES), torch.randn(6, 3, 32, 32)
    if "tip" in tuning:
        features = torch.randn(12, 32).numpy()
        model.tuning.fit_head(
            model,
            LabeledFeatures(features, np.eye(len(CLASSES))[np.arange(12) % 9], np.arange(12) % 3),
        )
    before = weights_fingerprint(model.frozen_tensors())
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert bool(parameters) == model.tuning.needs_steps
    for _ in range(2 if parameters else 0):
        optimizer = torch.optim.SGD(parameters, lr=0.01)
        model.train().zero_grad()
        functional.cross_entropy(
            model.head(model.backbone(images, model.task.needs)), torch.arange(6)
        ).backward()
        assert all(parameter.grad is not None for parameter in parameters)
        optimizer.step()
    assert weights_fingerprint(model.frozen_tensors()) == before
    restored = build_model(recipe, CLASSES)
    restored.load_tensors(
        {name: tensor.clone() for name, tensor in model.eval().trained_tensors().items()}
    )
    with torch.inference_mode():
        assert torch.equal(
            *(
                loaded.head(loaded.backbone(images, loaded.task.needs))
                for loaded in (model, restored)
            )
        )


def test_the_cache_logits_equal_the_formula(shapes, clip):
    """Equations 4 to 6 of Tip-Adapter, computed image by image."""
    model = build_model(
        with_settings(make_recipe(shapes, clip, "tip"), {"task": "classify"}), CLASSES
    )
    features, labels = torch.randn(10, 32), torch.arange(10) % 9
    model.tuning.fit_head(
        model, LabeledFeatures(features.numpy(), np.eye(9)[labels.numpy()], np.arange(10) % 2)
    )
    model.head.alpha.fill_(1.5)
    model.head.beta.fill_(3.0)
    image = torch.randn(1, 32)
    unit = image[0] / image[0].norm()
    expected = model.backbone.logit_scale * model.head.text @ unit
    for key, label in zip(features, labels, strict=True):
        expected[label] += 1.5 * torch.exp(-3.0 * (1 - key @ unit / key.norm()))
    torch.testing.assert_close(
        model.head(Features(pooled=image))[0], expected.detach(), rtol=1e-4, atol=1e-4
    )


def test_learned_context_replaces_the_words(shapes, clip):
    """Before training, the context "a photo of a" gives the embedding of that text."""
    model = build_model(
        with_settings(make_recipe(shapes, clip, "coop"), {"task": "classify"}), CLASSES
    )
    with torch.inference_mode():
        expected = model.backbone.embed_text(
            [f"a photo of a {name.replace('_', ' ')}." for name in CLASSES]
        )
        torch.testing.assert_close(
            model.head.embed_classes(), functional.normalize(expected, dim=1), rtol=1e-4, atol=1e-5
        )
    per_class = build_model(
        with_settings(
            make_recipe(shapes, clip, "coop"), {"task": "classify", "tuning.per_class": True}
        ),
        CLASSES,
    )
    assert per_class.head.context.shape == (9, 4, 32)


# --- a class without images, and no held-out images


def test_a_class_needs_no_training_image(shapes, clip, tmp_path, capsys):
    root = Path(shutil.copytree(shapes, tmp_path / "data"))
    shutil.rmtree(root / "train" / "red_square")
    shutil.rmtree(root / "val")
    result = fit_recipe(
        make_recipe(root, clip, "zeroshot", **{"data.val": 0, "tuning.templates": TEMPLATES}),
        tmp_path / "run",
    )
    assert "has no training image" not in capsys.readouterr().err + capsys.readouterr().out
    assert Run.open(result.run).outcome()["images"] == {"train": 32, "test": 180}
    assert result.numbers()["count"] == 180


def test_a_cache_can_be_continued_with_more_images(shapes, clip, tmp_path):
    first = fit_unevaluated(make_recipe(shapes, clip, "tip"), tmp_path / "first").run
    more, rng = tmp_path / "more", np.random.default_rng(7)
    for name in (*CLASSES, "red_star"):
        (more / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(draw_shape(rng, name.replace("star", "square"), shifted=True)).save(
                more / name / f"{number}.png"
            )
    run = Run.open(
        foveate.continue_(
            first, more, out=tmp_path / "second", settings={"data.near_duplicates": 1}
        ).run
    )
    saved = read_tensors(run.folder / "model.safetensors", verbatim=True)
    assert run.classes()[-1] == "red_star"
    assert (
        len(saved["head.keys"])
        == len(saved["head.labels"])
        == run.outcome()["images"]["train"]
        > 36
    )


# --- options


@pytest.mark.parametrize(
    ("tuning", "settings", "message"),
    [
        ("coop", {"prompts": {name: [name, name] for name in CLASSES}}, "several prompts"),
        ("tip", {"prompts": dict.fromkeys(CLASSES, "")}, "an empty one"),
        ("coop", {"context": 14}, "leave too few tokens"),
        ("cocoop", {"context": 99}, "leave too few tokens"),
    ],
)
def test_invalid_options_are_refused(shapes, clip, tmp_path, tuning, settings, message):
    recipe = make_recipe(
        shapes, clip, tuning, **{f"tuning.{key}": value for key, value in settings.items()}
    )
    with pytest.raises(UsageError, match=message) as error:
        fit_recipe(recipe, tmp_path / "run")
    assert error.value.hint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tuning", TEXT_TUNINGS)
def test_multilabel_data_are_refused(shapes, clip, tuning):
    with pytest.raises(UsageError, match="one class per image"):
        build_model(
            with_settings(
                make_recipe(shapes, clip, tuning), {"task": "classify", "task.multilabel": True}
            ),
            CLASSES,
        )


def test_an_empty_cache_is_not_trained(shapes, clip, tmp_path):
    with pytest.raises(UsageError, match="holds no training image"):
        fit_recipe(
            make_recipe(shapes, clip, "tip_f", **{"training.head_init": "random"}), tmp_path / "run"
        )


def test_every_text_tuning_is_tested():
    assert set(TEXT_TUNINGS) <= set(TUNINGS.names())
