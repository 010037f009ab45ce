"""Explanations: maps point at planted evidence, and the tests of faithfulness find the wrong ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import foveate
from foveate.cli import main as cli
from foveate.errors import FoveateError, UnknownName, UsageError
from foveate.explainability.faithfulness import (
    ExplainTarget,
    Faithfulness,
    FaithfulnessCurves,
    randomization_similarity,
    randomize_weights,
)
from foveate.explainability.methods import EXPLAINERS, ExplainRequest
from foveate.explainability.methods._layers import spatial_layers
from foveate.inference.predictor import load_predictor
from foveate.modeling.model import build_model
from foveate.recipe import Recipe, with_settings
from foveate.types import Batch, Sample

pytest.importorskip("captum", reason="needs the extra 'explain'")
SIDE, SPOT = 64, 20
COLOURS = {"blue": (40, 70, 230), "green": (40, 200, 60), "red": (230, 40, 40)}


def spotted(rng: np.random.Generator, colour) -> tuple[np.ndarray, tuple[int, int]]:
    """Grey noise with a square of the colour in one of four corners, and the corner: the square alone tells the class."""
    pixels = np.repeat(rng.integers(90, 150, (SIDE, SIDE, 1)), 3, 2).astype(np.uint8)
    corner = (int(rng.integers(2)), int(rng.integers(2)))
    y, x = (4 + each * (SIDE - SPOT - 8) for each in corner)
    pixels[y : y + SPOT, x : x + SPOT] = colour
    return pixels, corner


@pytest.fixture(scope="module")
def spots(tmp_path_factory) -> tuple[Path, dict[str, tuple[int, int]]]:
    root, rng, corners = tmp_path_factory.mktemp("spots"), np.random.default_rng(0), {}
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for place in range(30):
            pixels, corner = spotted(rng, colour)
            file = root / name / f"{place}.png"
            Image.fromarray(pixels).save(file)
            corners[str(file)] = corner
    return root, corners


def taught(root: Path, run: Path, backbone: str, **more):
    settings = {
        "data.near_duplicates": 1,
        "data.leakage_audit": False,
        "training.ema": 0.9,
        "augment.crop": 1.0,
        "augment.policy": "none",
        "training.head_init": "random",
    }
    words = {
        "backbone": backbone,
        "weights": "none",
        "size": SIDE,
        "tuning": "full",
        "epochs": 12,
        "lr": 2e-3,
        "batch_size": 16,
        "device": "cpu",
        **more,
    }
    return foveate.fit(root, out=run, settings=settings, **words)


@pytest.fixture(scope="module")
def resnet(spots, tmp_path_factory):
    found = taught(spots[0], tmp_path_factory.mktemp("runs") / "resnet", "test_resnet")
    assert found.numbers()["accuracy"] > 0.9
    return found.run


def targets(run: Path, files):
    predictor = load_predictor(run, "cpu")
    for file in files:
        yield file, ExplainTarget.from_sample(predictor, Sample(Path(file), file))


# --- where the evidence is


@pytest.mark.parametrize(
    "how", ["gradcam", "hirescam", "layercam", "occlusion", "integrated_gradients"]
)
def test_maps_point_at_the_only_evidence(resnet, spots, how):
    root, corners = spots
    hits = faithful = 0
    files = [str(root / name / f"{place}.png") for name in COLOURS for place in range(4)]
    for file, target in targets(resnet, files):
        score = target.explainable_scores()[0]
        found = EXPLAINERS.get(how)().explain(target.request(score)).detach()
        quarters = torch.nn.functional.adaptive_avg_pool2d(found[None, None].float(), 2)[0, 0]
        hits += divmod(int(quarters.argmax()), 2) == corners[file]
        faithful += FaithfulnessCurves(target, score).measure(found).gain > 0
    assert hits >= 11
    assert faithful >= 11


def test_what_points_elsewhere_is_no_better_than_random(resnet, spots):
    root, corners = spots
    file = str(root / "red" / "0.png")
    ((_, target),) = targets(resnet, [file])
    curves = FaithfulnessCurves(target, target.explainable_scores()[0])
    right, wrong = torch.zeros(14, 14), torch.zeros(14, 14)
    row, column = corners[file]
    right[7 * row : 7 * row + 7, 7 * column : 7 * column + 7] = 1
    wrong[7 * (1 - row) : 7 * (1 - row) + 7, 7 * column : 7 * column + 7] = 1
    assert curves.measure(right).better_than_random
    assert not curves.measure(wrong).better_than_random
    assert curves.measure(right).insertion > curves.measure(wrong).insertion
    assert curves.measure(right).deletion < curves.measure(wrong).deletion


def test_a_map_that_ignores_the_weights_is_found_out(resnet, spots):
    """Edges of the picture as a map: the same from any network."""

    class Edges:
        def explain(self, asked: ExplainRequest):
            return (asked.image[0, :, 1:, 1:] - asked.image[0, :, :-1, :-1]).abs().sum(0)

    gradcam, found = EXPLAINERS.get("gradcam")(), []
    for _, target in targets(resnet, [str(spots[0] / name / "1.png") for name in COLOURS]):
        score, other = target.explainable_scores()[0], randomize_weights(target.model)
        assert (
            randomization_similarity(
                Edges(), target, score, Edges().explain(target.request(score)), other
            )
            > 0.99
        )
        found.append(
            randomization_similarity(
                gradcam, target, score, gradcam.explain(target.request(score)).detach(), other
            )
        )
    assert np.mean(found) < 0.8


# --- definitions


def test_gradcam_is_cam_where_the_head_is_linear():
    """Behind global average pooling both are the class's weights times the maps (Zhou et al. 2016)."""
    settings = {
        "backbone": {"name": "test_resnet", "weights": "none", "size": SIDE},
        "task": {"name": "classify", "features": "pooled"},
        "tuning": "full",
    }
    model = build_model(with_settings(Recipe(), settings), ("a", "b"))
    batch = Batch(
        torch.randn(1, 3, SIDE, SIDE),
        [{}],
        torch.zeros(1, 4),
        torch.full((1, 2), SIDE),
        torch.zeros(1, dtype=torch.long),
    )
    target = ExplainTarget(model, batch)
    score = target.explainable_scores()[0]
    with torch.no_grad():
        maps = model.backbone.network.forward_features(batch.images)[0]
    weights = (model.head.linear.weight[model.classes.index(score.name)] / model.head.std).detach()
    cam = (weights[:, None, None] * maps).sum(0).clamp(min=0)
    found = EXPLAINERS.get("gradcam")().explain(target.request(score))
    torch.testing.assert_close(found / found.max(), cam / cam.max(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_vit",
        "mini_swin",
        "test_efficientnet",
        "test_convnext",
        "mini_vgg",
    ],
)
def test_every_family_has_layers_with_places(name):
    side = 224 if "swin" in name else SIDE
    settings = {
        "backbone": {"name": name, "weights": "none", "size": side},
        "task": "classify",
        "tuning": "full",
    }
    model = build_model(with_settings(Recipe(), settings), ("a", "b"))
    batch = Batch(
        torch.randn(1, 3, side, side),
        [{}],
        torch.zeros(1, 4),
        torch.full((1, 2), side),
        torch.zeros(1, dtype=torch.long),
    )
    target = ExplainTarget(model, batch)
    found = spatial_layers(target.request(target.explainable_scores()[0]))
    assert all(layer.output.shape == layer.gradient.shape for layer in found)
    assert found[0].output.shape[-1] >= found[-1].output.shape[-1] >= 2
    assert all(float(layer.gradient.abs().max()) > 0 for layer in found)


def test_rollout_by_hand():
    settings = {
        "backbone": {"name": "test_vit", "weights": "none", "size": SIDE},
        "task": "classify",
        "tuning": "full",
    }
    model = build_model(with_settings(Recipe(), settings), ("a", "b"))
    image = torch.randn(1, 3, SIDE, SIDE)
    network = model.backbone.network
    seen, tokens = [], network._pos_embed(network.patch_embed(image))
    with torch.no_grad():
        for block in network.blocks:
            attention = block.attn
            states = block.norm1(tokens)
            query, key, _ = (
                attention.qkv(states)
                .reshape(1, -1, 3, attention.num_heads, attention.head_dim)
                .permute(2, 0, 3, 1, 4)
            )
            seen.append(
                (
                    attention.q_norm(query)
                    * attention.scale
                    @ attention.k_norm(key).transpose(-2, -1)
                )
                .softmax(-1)[0]
                .mean(0)
            )
            tokens = block(tokens)
    count = seen[0].shape[0]
    whole = torch.eye(count)
    for each in seen:
        whole = (each + torch.eye(count)) / 2 @ whole
    batch = Batch(
        image, [{}], torch.zeros(1, 4), torch.full((1, 2), SIDE), torch.zeros(1, dtype=torch.long)
    )
    target = ExplainTarget(model, batch)
    found = EXPLAINERS.get("rollout")().explain(target.request(target.explainable_scores()[0]))
    torch.testing.assert_close(
        found.flatten(), whole[0, 1:] if count > found.numel() else whole.mean(0)
    )
    assert all(
        block.attn.fused_attn == network.blocks[0].attn.fused_attn for block in network.blocks
    )


def test_curves_of_a_known_score():
    """The score is the mean of the left half: an order that begins there loses it in half the steps."""

    from foveate.modeling.tasks import ExplainableScore

    batch = Batch(
        torch.ones(1, 3, SIDE - 8, SIDE - 8),
        [{}],
        torch.zeros(1, 4),
        torch.zeros(1, 2),
        torch.zeros(1, dtype=torch.long),
    )
    half = (SIDE - 8) // 2
    score = ExplainableScore("left", lambda found: found, lambda found: found)

    class Left:
        def __call__(self, batch):
            return batch.images[:, 0, :, :half].mean((1, 2))

    curves = FaithfulnessCurves(ExplainTarget(Left(), batch), score)
    left = torch.cat([torch.ones(14, 7), torch.zeros(14, 7)], 1)
    assert curves.measure(left).deletion == pytest.approx(0.25, abs=1e-4)
    assert curves.measure(1 - left).deletion == pytest.approx(0.75, abs=1e-4)
    assert Faithfulness(0.2, 0.7, (0.1, 0.05)).gain == pytest.approx(0.4)


# --- other tasks


def test_words_boxes_and_regions_can_be_asked_about(resnet):
    torch.manual_seed(0)
    for task, classes in (
        ({"name": "detect", "width": 32}, ("cat", "dog")),
        ({"name": "segment", "head": "fpn"}, ("sky", "road")),
        (
            {
                "name": "caption",
                "vocabulary": ["a", "red", "spot"],
                "width": 64,
                "depth": 1,
                "max_words": 4,
            },
            (),
        ),
    ):
        settings = {
            "backbone": {"name": "test_resnet", "weights": "none", "size": SIDE},
            "task": task,
            "tuning": "full",
        }
        model = build_model(with_settings(Recipe(), settings), classes)
        batch = Batch(
            torch.randn(1, 3, SIDE, SIDE),
            [{}],
            torch.tensor([[0.0, 0, SIDE, SIDE]]),
            torch.full((1, 2), SIDE),
            torch.zeros(1, dtype=torch.long),
        )
        target = ExplainTarget(model, batch)
        scores = target.explainable_scores()
        assert scores
        for score in scores[:2]:
            found = EXPLAINERS.get("gradcam")().explain(target.request(score))
            assert found.ndim == 2
            assert bool(found.isfinite().all())
            assert 0 <= float(target.probabilities(score, batch.images)[0]) <= 1


# --- the command


def test_sheets_and_numbers(resnet, spots, tmp_path, capsys):
    root, _ = spots
    (tmp_path / "broken.png").write_bytes(b"no picture")
    files = [
        str(root / "red" / "0.png"),
        str(root / "blue" / "0.png"),
        str(tmp_path / "broken.png"),
    ]
    words = [
        "explain",
        str(resnet),
        *files,
        "--method",
        "gradcam",
        "--method",
        "occlusion",
        "--out",
        str(tmp_path / "why"),
        "--device",
        "cpu",
        "--json",
    ]
    assert cli._run(words) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["skipped"] == 1
    assert [row["label"] for row in told["explanations"]] == ["red", "red", "blue", "blue"]
    rows = [
        json.loads(line)
        for line in (tmp_path / "why" / "explanations.jsonl").read_text().splitlines()
    ]
    assert rows == told["explanations"]
    assert "strongest evidence in the" in rows[0]["alt"]
    sheet = Image.open(tmp_path / "why" / "0000-0.png")
    assert sheet.width > 3 * 224
    assert "red" in sheet.text["alt"]
    with pytest.raises(UsageError, match="already exists"):
        foveate.explain(resnet, files[0], out=tmp_path / "why")


def test_ways_that_are_unknown_or_do_not_fit(resnet, spots, tmp_path):
    file = spots[0] / "red" / "0.png"
    with pytest.raises(UnknownName, match="gradcam"):
        foveate.explain(resnet, file, methods=["gradkam"], out=tmp_path / "why")
    with pytest.raises(UsageError, match="plain Vision Transformer"):
        foveate.explain(resnet, file, methods=["rollout"], out=tmp_path / "other")
    with pytest.raises(UsageError, match="the path does not exist"):
        foveate.explain(resnet, spots[0] / "nowhere.png", out=tmp_path / "third")


# --- what it is like


def test_nearest_training_images_stand_below(resnet, spots, tmp_path):
    files = [spots[0] / name / "3.png" for name in COLOURS]
    found = foveate.explain(
        resnet, files, methods=["gradcam"], out=tmp_path / "why", device="cpu", nearest=5
    ).found
    for why, name in zip(found, COLOURS, strict=True):
        assert len(why.nearest) == 5
        assert [each.alike for each in why.nearest] == sorted(
            (each.alike for each in why.nearest), reverse=True
        )
        assert (
            sum(each.label == name for each in why.nearest) >= 4
        )  # a picture of the training is nearest to itself
    alone = foveate.explain(
        resnet, files[:1], methods=["gradcam"], out=tmp_path / "alone", device="cpu"
    )
    with (
        Image.open(tmp_path / "why" / "0000-3.png") as tall,
        Image.open(alone.folder / "0000-3.png") as small,
    ):
        assert tall.height > small.height + 100
        assert "like blue/3.png (blue)" in tall.text["alt"]
    row = json.loads((tmp_path / "why" / "explanations.jsonl").read_text().splitlines()[0])
    assert {"path", "label", "alike"} == set(row["nearest"][0])


def test_training_images_that_are_gone_are_one_sentence(spots, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(spots[0], root)
    run = taught(root, tmp_path / "run", "test_resnet", epochs=1).run
    shutil.rmtree(root)
    with pytest.raises(FoveateError):
        foveate.explain(run, spots[0] / "red" / "0.png", out=tmp_path / "why", nearest=3)
    assert not (tmp_path / "why").exists()


def test_sentences_are_for_backbones_that_embed_them(resnet, spots, tmp_path):
    with pytest.raises(UsageError, match="need a backbone that embeds text"):
        foveate.explain(
            resnet, spots[0] / "red" / "0.png", texts=["a red square"], out=tmp_path / "why"
        )
