"""Explanations: maps point at planted evidence, and faithfulness scores detect wrong maps."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import foveate
from foveate.api.explain.core import Request, _ImageExplainer, create_explainers
from foveate.cli import main as cli
from foveate.errors import DataError, FoveateError, UnknownName, UsageError
from foveate.explainability.faithfulness import (
    THOROUGH_TEST,
    CurveTest,
    ExplainTarget,
    Faithfulness,
    FaithfulnessTest,
    cell_means,
    randomization_similarity,
    randomize_weights,
    short_test,
)
from foveate.explainability.methods import EXPLAINERS, ExplainRequest
from foveate.explainability.methods._layers import spatial_layers
from foveate.images.drawing import class_color
from foveate.inference.predictor import load_predictor
from foveate.modeling.model import build_model
from foveate.recipe import Recipe, with_settings
from foveate.types import Batch, Sample
from test_dense_tasks import fit_detector, write_voc

pytest.importorskip("captum", reason="needs the extra 'explain'")
SIDE, SPOT = 64, 20
SHORT = CurveTest(3, 5)
COLORS = {"blue": (40, 70, 230), "green": (40, 200, 60), "red": (230, 40, 40)}


def image_with_spot(rng: np.random.Generator, color) -> tuple[np.ndarray, tuple[int, int]]:
    """Make gray noise with a colored square in one of four corners; returns pixels and corner.

    The color of the square alone determines the class.
    """
    pixels = np.repeat(rng.integers(90, 150, (SIDE, SIDE, 1)), 3, 2).astype(np.uint8)
    corner = (int(rng.integers(2)), int(rng.integers(2)))
    y, x = (4 + index * (SIDE - SPOT - 8) for index in corner)
    pixels[y : y + SPOT, x : x + SPOT] = color
    return pixels, corner


@pytest.fixture(scope="module")
def spots(tmp_path_factory) -> tuple[Path, dict[str, tuple[int, int]]]:
    root, rng, corners = tmp_path_factory.mktemp("spots"), np.random.default_rng(0), {}
    for name, color in COLORS.items():
        (root / name).mkdir()
        for index in range(30):
            pixels, corner = image_with_spot(rng, color)
            file = root / name / f"{index}.png"
            Image.fromarray(pixels).save(file)
            corners[str(file)] = corner
    return root, corners


def train(root: Path, run: Path, backbone: str, **options):
    settings = {
        "data.near_duplicates": 1,
        "data.leakage_audit": False,
        "training.ema": 0.9,
        "augment.crop": 1.0,
        "augment.policy": "none",
        "training.head_init": "random",
    }
    arguments = {
        "backbone": backbone,
        "weights": "none",
        "size": SIDE,
        "tuning": "full",
        "epochs": 12,
        "lr": 2e-3,
        "batch_size": 16,
        "device": "cpu",
        **options,
    }
    return foveate.fit(root, out=run, settings=settings, **arguments)


@pytest.fixture(scope="module")
def resnet(spots, tmp_path_factory):
    result = train(spots[0], tmp_path_factory.mktemp("runs") / "resnet", "test_resnet")
    assert result.numbers()["accuracy"] > 0.9
    return result.run


def explain_targets(run: Path, files):
    predictor = load_predictor(run, "cpu")
    for file in files:
        yield file, ExplainTarget.from_sample(predictor, Sample(Path(file), file))


def measure(target, score, map_) -> Faithfulness:
    """Test one map of one score thoroughly."""
    return FaithfulnessTest(target, [score]).measure([(0, map_)])[0]


# --- evidence


@pytest.mark.parametrize(
    "method", ["gradcam", "hirescam", "layercam", "occlusion", "integrated_gradients"]
)
def test_maps_point_at_the_only_evidence(resnet, spots, method):
    root, corners = spots
    hits = faithful = 0
    files = [str(root / name / f"{index}.png") for name in COLORS for index in range(4)]
    for file, target in explain_targets(resnet, files):
        score = target.explainable_scores()[0]
        heatmap = EXPLAINERS.get(method)().explain(target.request(score)).detach()
        quarters = torch.nn.functional.adaptive_avg_pool2d(heatmap[None, None].float(), 2)[0, 0]
        hits += divmod(int(quarters.argmax()), 2) == corners[file]
        faithful += measure(target, score, heatmap).gain > 0
    assert hits >= 11
    assert faithful >= 11


def test_unfaithful_maps_score_no_better_than_random(resnet, spots):
    root, corners = spots
    file = str(root / "red" / "0.png")
    ((_, target),) = explain_targets(resnet, [file])
    score = target.explainable_scores()[0]
    correct, wrong = torch.zeros(14, 14), torch.zeros(14, 14)
    row, column = corners[file]
    correct[7 * row : 7 * row + 7, 7 * column : 7 * column + 7] = 1
    wrong[7 * (1 - row) : 7 * (1 - row) + 7, 7 * column : 7 * column + 7] = 1
    for test in (SHORT, THOROUGH_TEST):
        good, bad = FaithfulnessTest(target, [score], test).measure([(0, correct), (0, wrong)])
        assert good.better_than_random
        assert not bad.better_than_random
        assert good.insertion > bad.insertion
        assert good.deletion < bad.deletion


def test_a_map_that_ignores_the_weights_is_detected(resnet, spots):
    """The edges of the image as a map are the same for any network."""

    class Edges:
        def explain(self, request: ExplainRequest):
            return (request.image[0, :, 1:, 1:] - request.image[0, :, :-1, :-1]).abs().sum(0)

    gradcam, similarities = EXPLAINERS.get("gradcam")(), []
    for _, target in explain_targets(resnet, [str(spots[0] / name / "1.png") for name in COLORS]):
        score = target.explainable_scores()[0]
        trained = target.request(score)
        randomized = replace(target, model=randomize_weights(target.model)).request(score)
        edges, own = Edges().explain(trained), gradcam.explain(trained).detach()
        assert randomization_similarity(Edges(), edges, randomized) > 0.99
        similarities.append(randomization_similarity(gradcam, own, randomized))
    assert np.mean(similarities) < 0.8


# --- definitions


def test_gradcam_is_cam_where_the_head_is_linear():
    """After global average pooling, both are class weights times maps (Zhou et al. 2016)."""
    settings = {
        "backbone": {"name": "test_resnet", "weights": "none", "size": SIDE},
        "task": {"name": "classify", "features": "pooled"},
        "tuning": "full",
    }
    model = build_model(with_settings(Recipe(), settings), ("a", "b"))
    batch = Batch(
        torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)),
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
    assert cam.max() > 0
    heatmap = EXPLAINERS.get("gradcam")().explain(target.request(score))
    torch.testing.assert_close(heatmap / heatmap.max(), cam / cam.max(), rtol=1e-4, atol=1e-5)


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
def test_every_backbone_family_has_spatial_layers(name):
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
    layers = spatial_layers(target.request(target.explainable_scores()[0]))
    assert all(layer.output.shape == layer.gradient.shape for layer in layers)
    assert layers[0].output.shape[-1] >= layers[-1].output.shape[-1] >= 2
    assert all(float(layer.gradient.abs().max()) > 0 for layer in layers)


def test_rollout_by_hand():
    settings = {
        "backbone": {"name": "test_vit", "weights": "none", "size": SIDE},
        "task": "classify",
        "tuning": "full",
    }
    model = build_model(with_settings(Recipe(), settings), ("a", "b"))
    image = torch.randn(1, 3, SIDE, SIDE)
    network = model.backbone.network
    attentions, tokens = [], network._pos_embed(network.patch_embed(image))
    with torch.no_grad():
        for block in network.blocks:
            attention = block.attn
            states = block.norm1(tokens)
            query, key, _ = (
                attention.qkv(states)
                .reshape(1, -1, 3, attention.num_heads, attention.head_dim)
                .permute(2, 0, 3, 1, 4)
            )
            attentions.append(
                (
                    attention.q_norm(query)
                    * attention.scale
                    @ attention.k_norm(key).transpose(-2, -1)
                )
                .softmax(-1)[0]
                .mean(0)
            )
            tokens = block(tokens)
    count = attentions[0].shape[0]
    rollout = torch.eye(count)
    for layer_attention in attentions:
        rollout = (layer_attention + torch.eye(count)) / 2 @ rollout
    batch = Batch(
        image, [{}], torch.zeros(1, 4), torch.full((1, 2), SIDE), torch.zeros(1, dtype=torch.long)
    )
    target = ExplainTarget(model, batch)
    heatmap = EXPLAINERS.get("rollout")().explain(target.request(target.explainable_scores()[0]))
    torch.testing.assert_close(
        heatmap.flatten(), rollout[0, 1:] if count > heatmap.numel() else rollout.mean(0)
    )
    assert all(
        block.attn.fused_attn == network.blocks[0].attn.fused_attn for block in network.blocks
    )


def test_deletion_and_insertion_curves_of_a_known_score():
    """The score is the mean of the left half: deleting it first takes half of the steps."""

    from foveate.modeling.tasks import ExplainableScore

    batch = Batch(
        torch.ones(1, 3, SIDE - 8, SIDE - 8),
        [{}],
        torch.zeros(1, 4),
        torch.zeros(1, 2),
        torch.zeros(1, dtype=torch.long),
    )
    half = (SIDE - 8) // 2
    score = ExplainableScore("left", lambda output: output, lambda output: output)

    class LeftMean:
        def __call__(self, batch):
            return batch.images[:, 0, :, :half].mean((1, 2))

    target = ExplainTarget(LeftMean(), batch)
    left = torch.cat([torch.ones(14, 7), torch.zeros(14, 7)], 1)
    assert measure(target, score, left).deletion == pytest.approx(0.25, abs=1e-4)
    assert measure(target, score, 1 - left).deletion == pytest.approx(0.75, abs=1e-4)
    assert Faithfulness(0.2, 0.7, (0.1, 0.05)).gain == pytest.approx(0.4)


# --- other tasks


def test_captions_boxes_and_masks_can_be_explained(resnet):
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
            heatmap = EXPLAINERS.get("gradcam")().explain(target.request(score))
            assert heatmap.ndim == 2
            assert bool(heatmap.isfinite().all())
            assert 0 <= float(target.probabilities([score], batch.images)[0, 0]) <= 1


# --- the command


def test_the_command_writes_sheets_and_json(resnet, spots, tmp_path, capsys):
    root, _ = spots
    (tmp_path / "broken.png").write_bytes(b"no picture")
    files = [
        str(root / "red" / "0.png"),
        str(root / "blue" / "0.png"),
        str(tmp_path / "broken.png"),
    ]
    arguments = [
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
    assert cli._run(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["skipped"] == 1
    assert [row["label"] for row in result["explanations"]] == ["red", "red", "blue", "blue"]
    rows = [
        json.loads(line)
        for line in (tmp_path / "why" / "explanations.jsonl").read_text().splitlines()
    ]
    assert rows == result["explanations"]
    assert "strongest evidence in the" in rows[0]["alt"]
    sheet = Image.open(tmp_path / "why" / "0000-0.png")
    assert sheet.width > 3 * 224
    assert "red" in sheet.text["alt"]
    with pytest.raises(UsageError, match="already exists"):
        foveate.explain(resnet, files[0], out=tmp_path / "why")


def test_unknown_and_unsuitable_methods_are_refused(resnet, spots, tmp_path):
    file = spots[0] / "red" / "0.png"
    with pytest.raises(UnknownName, match="gradcam"):
        foveate.explain(resnet, file, methods=["gradkam"], out=tmp_path / "why")
    with pytest.raises(UsageError, match="plain Vision Transformer"):
        foveate.explain(resnet, file, methods=["rollout"], out=tmp_path / "other")
    with pytest.raises(UsageError, match="the path does not exist"):
        foveate.explain(resnet, spots[0] / "nowhere.png", out=tmp_path / "third")


# --- similar training images


def test_nearest_training_images_are_shown(resnet, spots, tmp_path):
    files = [spots[0] / name / "3.png" for name in COLORS]
    explanations = foveate.explain(
        resnet, files, methods=["gradcam"], out=tmp_path / "why", device="cpu", nearest=5
    ).explanations
    for explanation, name in zip(explanations, COLORS, strict=True):
        assert len(explanation.nearest) == 5
        assert [neighbor.similarity for neighbor in explanation.nearest] == sorted(
            (neighbor.similarity for neighbor in explanation.nearest), reverse=True
        )
        assert (
            sum(neighbor.label == name for neighbor in explanation.nearest) >= 4
        )  # a training image is nearest to itself
    without_nearest = foveate.explain(
        resnet, files[:1], methods=["gradcam"], out=tmp_path / "alone", device="cpu"
    )
    with (
        Image.open(tmp_path / "why" / "0000-3.png") as with_neighbors,
        Image.open(without_nearest.folder / "0000-3.png") as single,
    ):
        assert with_neighbors.height > single.height + 100
        assert "similar to blue/3.png (blue)" in with_neighbors.text["alt"]
    row = json.loads((tmp_path / "why" / "explanations.jsonl").read_text().splitlines()[0])
    assert {"path", "label", "similarity"} == set(row["nearest"][0])


def test_missing_training_images_are_one_error_message(spots, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(spots[0], root)
    run = train(root, tmp_path / "run", "test_resnet", epochs=1).run
    shutil.rmtree(root)
    with pytest.raises(FoveateError):
        foveate.explain(run, spots[0] / "red" / "0.png", out=tmp_path / "why", nearest=3)
    assert not (tmp_path / "why").exists()


def test_text_queries_need_a_text_encoder(resnet, spots, tmp_path):
    with pytest.raises(UsageError, match="need a backbone that embeds text"):
        foveate.explain(
            resnet, spots[0] / "red" / "0.png", texts=["a red square"], out=tmp_path / "why"
        )


# --- boxes, and what an explanation costs


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> tuple[Path, Path]:
    """Images with boxes, and a run that detects most of them."""
    data = write_voc(tmp_path_factory.mktemp("data") / "shapes")
    return data, fit_detector(data, tmp_path_factory)


def test_t75_only_boxes_that_predict_gives_are_explained_and_drawn(detector, tmp_path):
    data, run = detector
    images = sorted((data / "JPEGImages").iterdir())[:4]
    predicted = foveate.predict(run, images, device="cpu")
    assert any(result.prediction.names for result in predicted)
    Image.new("RGB", (60, 60)).save(tmp_path / "nothing.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = foveate.explain(
            run, [*images, tmp_path / "nothing.png"], out=tmp_path / "why", device="cpu"
        )
    assert str(tmp_path / "nothing.png") in result.without
    for each in predicted:
        boxes = each.prediction
        explained = [row for row in result.explanations if row.path == str(each.path)]
        assert len(explained) == 2 * min(3, len(boxes.names))  # by two methods
        for row, box, score in zip(explained[::2], boxes.xyxy, boxes.scores, strict=False):
            assert row.box == pytest.approx(box.tolist(), abs=0.01)
            assert row.probability == pytest.approx(float(score), abs=1e-4)
        sheets = list((tmp_path / "why").glob(f"*-{Path(each.path).stem}.png"))
        assert len(sheets) == bool(explained)
        for sheet in sheets:
            pixels = np.asarray(Image.open(sheet).convert("RGB")).reshape(-1, 3)
            assert (pixels == class_color(1)).all(1).sum() > 100  # the frames
    with pytest.raises(UsageError, match="no box reaches the threshold"):
        foveate.explain(run, tmp_path / "nothing.png", out=tmp_path / "none", device="cpu")
    assert not (tmp_path / "none").exists()


def test_images_of_which_none_can_be_read_leave_nothing(resnet, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of the images could be read"):
        foveate.explain(resnet, [tmp_path / "bad.png"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_t75_a_constant_map_is_like_no_other_and_warns_of_nothing(resnet, spots):
    ((_, target),) = explain_targets(resnet, [str(spots[0] / "red" / "0.png")])
    request = target.request(target.explainable_scores()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (0.0, 1.0, float("nan")):
            constant = torch.full((7, 7), value)
            assert randomization_similarity(EXPLAINERS.get("gradcam")(), constant, request) == 0


@pytest.mark.parametrize(("thorough", "most"), [(False, 160), (True, 400)])
def test_t75_all_scores_of_an_image_share_its_passes(resnet, spots, thorough, most):
    """Three scores by two methods; a forward pass of the network is what costs time."""
    predictor, passes = load_predictor(resnet, "cpu"), []
    request = Request(create_explainers(["gradcam", "hirescam"]), (), 0, True, thorough)
    sample = Sample(spots[0] / "red" / "0.png", "0")
    one = ExplainTarget.from_sample(predictor, sample).explainable_scores()[0]
    predictor.model.task.explainable_scores = lambda output, batch: [one] * 3
    explainer = _ImageExplainer(predictor, request)
    for model in (predictor.model, explainer.randomized):
        model.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0].images)))
    explanations, _ = explainer.explain(sample)
    assert len(explanations) == 6
    assert most / 2 < sum(passes) <= most
    assert explanations[0].faithfulness == explanations[2].faithfulness


def test_t75_the_short_test_is_as_fine_as_the_network_is_cheap():
    small, large = 800_000_000, 12_000_000_000  # EfficientNet-Lite0 at 224 px; FCOS on it at 512
    assert short_test(small, maps=6) == CurveTest(7, 5)
    assert short_test(large, maps=6) == CurveTest(3, 5)
    assert 3 < short_test(large, maps=2).steps < 7
    assert short_test(1000 * large, maps=1) == CurveTest(3, 5)
    assert CurveTest(3, 5).passes(6) * large < 6e11


def test_t75_the_curves_of_many_scores_are_those_of_each(resnet, spots):
    """Shared passes change nothing; the curve of an order is that of the definition."""
    ((_, target),) = explain_targets(resnet, [str(spots[0] / "green" / "2.png")])
    classes = [target.model.task._explainable_score(name) for name in COLORS]
    map_ = torch.rand(7, 7, generator=torch.Generator().manual_seed(0))
    together = FaithfulnessTest(target, classes, SHORT)
    for index, score in enumerate(classes):
        alone = FaithfulnessTest(target, [score], SHORT).measure([(0, map_)])[0]
        shared = together.measure([(index, map_)])[0]
        assert shared.row() == pytest.approx(alone.row(), abs=1e-6)
    order = np.argsort(-cell_means(map_).ravel(), kind="stable")
    values = []
    for count in np.linspace(0, 196, SHORT.steps + 1).round().astype(int):
        kept = torch.ones(196)
        kept[torch.from_numpy(order[:count].copy())] = 0
        mask = torch.nn.functional.interpolate(kept.reshape(1, 1, 14, 14), (SIDE, SIDE))
        values.append(target.probabilities(classes, target.batch.images * mask)[0])
    deletion = np.trapezoid(np.stack(values), dx=1 / SHORT.steps, axis=0)
    measured = [each.deletion for each in together.measure([(i, map_) for i in range(3)])]
    assert measured == pytest.approx(deletion.tolist(), abs=1e-5)
