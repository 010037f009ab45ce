"""Image generators: conditioning, seeds, inpainting, distances, and style transfer."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

import foveate
from foveate.api.generate.inpainting import find_region, paste_region
from foveate.cli import main as cli
from foveate.data.formats import read_table
from foveate.errors import (
    BrokenImage,
    DataError,
    FoveateError,
    UnknownName,
    UsageError,
    WeightsError,
)
from foveate.evaluation.fid import fid, kid
from foveate.inference.predictor import load_predictor
from foveate.modeling.backbones import Conditioning, family_of, unet
from foveate.modeling.diffusion import (
    ClassNameTokenizer,
    ConditioningEncoder,
    InitialImage,
    generate_images,
)
from foveate.modeling.tokenizer import WordTokenizer
from foveate.modeling.weights import read_tensors
from foveate.predictions import ImagePrediction
from foveate.run.folder import Run
from helpers import without_evaluation

pytest.importorskip("diffusers", reason="needs the extra 'generate'")
COLORS = {"blue": (40, 70, 220), "red": (220, 40, 40)}
SIDE = 16
SMALL = {"size": SIDE, "device": "cpu", "batch_size": 8, "epochs": 1}
QUICK = {**SMALL, "backbone": "unet_mini", "epochs": 16, "lr": 4e-3}


@pytest.fixture(scope="module", autouse=True)
def mini_network():
    """`unet_small` with half of its channels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(unet._CHANNELS, "unet_mini", 16)
        yield


def solid_image(color, rng: np.random.Generator) -> np.ndarray:
    """Make a square of about this color."""
    return (
        (np.array(color) + rng.integers(-25, 26, 3) + rng.integers(-4, 5, (SIDE, SIDE, 3)))
        .clip(0, 255)
        .astype(np.uint8)
    )


@pytest.fixture(scope="module")
def colored(tmp_path_factory) -> Path:
    root, rng = tmp_path_factory.mktemp("colored"), np.random.default_rng(0)
    for name, color in COLORS.items():
        (root / name).mkdir()
        for index in range(20):
            Image.fromarray(solid_image(color, rng)).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def trained(colored, tmp_path_factory):
    settings = {"training.ema": 0.8, "data.near_duplicates": 1, "data.leakage_audit": False}
    return foveate.fit(
        colored,
        task="generate",
        out=tmp_path_factory.mktemp("runs") / "run",
        settings=settings,
        **QUICK,
    )


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """A tiny Stable Diffusion pipeline with random weights."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    root = tmp_path_factory.mktemp("pipeline")
    letters = [chr(number) for number in range(97, 123)]
    vocabulary = [
        "<|startoftext|>",
        "<|endoftext|>",
        *letters,
        *(f"{letter}</w>" for letter in letters),
    ]
    (root / "vocab.json").write_text(
        json.dumps({token: index for index, token in enumerate(vocabulary)})
    )
    (root / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(root / "vocab.json"), str(root / "merges.txt"), model_max_length=16
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8, layers_per_block=1, block_out_channels=(16, 32), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16, attention_head_dim=4, norm_num_groups=8,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=8, sample_size=SIDE,
        )  # fmt: skip
        ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        config = CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=16,
            num_attention_heads=2,
            num_hidden_layers=1,
            max_position_embeddings=16,
            **ids,
        )
        text = CLIPTextModel(config)
    schedule = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )
    pipe = StableDiffusionPipeline(
        vae, text, tokenizer, unet, schedule, None, None, requires_safety_checker=False
    )
    pipe.save_pretrained(root / "tiny")
    return root / "tiny"


def read_pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


# --- training


def test_a_class_is_generated_in_its_color(trained, tmp_path):
    """The mean colors of twelve images of each class are nearest to the color of the class."""
    result = foveate.generate(
        trained.run, list(COLORS), count=12, out=tmp_path / "made", device="cpu"
    )
    means = [
        read_pixels(tmp_path / "made" / f"{index:04d}.png").mean((0, 1)) for index in range(24)
    ]
    distances = np.array(
        [[np.abs(mean - np.array(color)).sum() for color in COLORS.values()] for mean in means]
    )
    assert result.count == 24
    assert (distances.argmin(1) == np.repeat([0, 1], 12)).mean() > 0.9
    assert trained.evaluation.scores.main == "explained"
    assert trained.evaluation.scores.numbers["explained"].value > 0.7
    rows = Run.open(trained.run).read_metrics()
    assert rows[-1]["val_explained"] > rows[0]["val_explained"] + 0.2


@pytest.mark.figures
def test_the_validation_loss_uses_the_same_noise_each_time(trained, colored):
    first, second = (
        foveate.evaluate(trained.run).scores.numbers["explained"].value for _ in range(2)
    )
    assert first == second
    assert load_predictor(trained.run).run.outcome()["images"]["test"] > 0
    assert (
        "Generated images"
        in next((trained.run / "evaluations").glob("test/report.html")).read_text()
    )


def test_a_seed_determines_the_image(trained, tmp_path):
    """Whatever else is in the batch; and the metadata of the PNG are complete."""
    foveate.generate(trained.run, "red", count=3, seed=5, out=tmp_path / "three", device="cpu")
    foveate.generate(trained.run, "red", count=1, seed=6, out=tmp_path / "one", device="cpu")
    in_batch, alone = (
        read_pixels(tmp_path / "three" / "0001.png").astype(int),
        read_pixels(tmp_path / "one" / "0000.png").astype(int),
    )
    assert np.abs(in_batch - alone).max() <= 1  # another batch size sums in another order
    first = read_pixels(tmp_path / "three" / "0000.png").astype(int)
    assert np.abs(first - alone).max() > 1
    metadata = Image.open(tmp_path / "one" / "0000.png").text
    assert (metadata["prompt"], metadata["seed"], metadata["model"]) == (
        "red",
        "6",
        trained.run.name,
    )
    assert "AI-generated" in metadata["note"]
    rows = read_table(tmp_path / "three" / "images.jsonl").samples  # usable as training data
    assert [row.target.sentences for row in rows] == [("red",)] * 3


def test_captions_condition_the_color(colored, tmp_path):
    rows = [
        {"path": str(file), "text": f"a {file.parent.name} square"}
        for file in sorted(colored.rglob("*.png"))
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {"training.ema": 0.8, "data.near_duplicates": 1, "data.test": 0}
    with without_evaluation():
        result = foveate.fit(
            tmp_path / "data.jsonl",
            task="generate",
            out=tmp_path / "run",
            settings=settings,
            allow_outside=True,
            **QUICK,
        )
    assert set(Run.open(result.run).recipe().task.settings["vocabulary"]) == {
        "a",
        "square",
        "red",
        "blue",
    }
    foveate.generate(
        result.run, ["a red square", "a blue square"], count=6, out=tmp_path / "made", device="cpu"
    )
    red, blue = (
        np.mean(
            [read_pixels(tmp_path / "made" / f"{index:04d}.png").mean((0, 1)) for index in indices],
            0,
        )
        for indices in (range(6), range(6, 12))
    )
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50


def test_images_without_labels_are_enough(colored, tmp_path):
    assert read_table(colored / "red").format == "unlabeled"
    assert isinstance(read_table(colored / "red").samples[0].target, ImagePrediction)
    settings = {"data.near_duplicates": 1, "task.prompt": "a photo of sks", "data.test": 0}
    with without_evaluation():
        result = foveate.fit(
            colored / "red",
            task="generate",
            out=tmp_path / "run",
            settings=settings,
            **SMALL,
        )
    assert Run.open(result.run).recipe().task.settings["example_prompts"] == ["a photo of sks"]
    with pytest.raises(UsageError, match=r"have no labels.*--task generate"):
        foveate.fit(colored / "red", out=tmp_path / "other")


def test_tensorboard_shows_generated_images(colored, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {"data.near_duplicates": 1, "training.tensorboard": True, "task.steps": 2}
    with without_evaluation():
        result = foveate.fit(
            colored,
            task="generate",
            out=tmp_path / "run",
            settings=settings,
            **{**QUICK, "epochs": 2},
        )
    events = EventAccumulator(str(result.run / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == ["0: blue", "1: red"]
    assert len(events.Images("1: red")) == 2


# --- the arithmetic of diffusion


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample", "flow"])
def test_the_correct_prediction_separates_image_and_noise(prediction_type, pipeline):
    backbone = (
        family_of("unet_small").open("unet_small", "none", SIDE)
        if prediction_type == "flow"
        else family_of("diffusers:").open(f"diffusers:{pipeline}", "auto")
    )
    backbone.prediction_type = prediction_type
    clean, noise = torch.randn(2, 5, *backbone.latent_shape)
    time = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    noisy = backbone.add_noise(clean, noise, time)
    predicted = backbone.predict_x0_eps(noisy, backbone.target(clean, noise, time), time)
    torch.testing.assert_close(predicted[0], clean, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(predicted[1], noise, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(backbone.add_noise(clean, noise, torch.zeros(5)), clean)


def test_steps_equal_ddim(pipeline):
    """Compare with diffusers' own scheduler, which starts at the same time steps."""
    from diffusers import DDIMScheduler

    backbone = family_of("diffusers:").open(f"diffusers:{pipeline}", "auto").eval()
    schedule = DDIMScheduler.from_pretrained(pipeline, subfolder="scheduler", set_alpha_to_one=True)
    timesteps = [round(time * 999) for time in np.linspace(0.98, 0, 6)[:-1]]
    noise = torch.randn(backbone.latent_shape, generator=torch.Generator().manual_seed(3))[None]
    with torch.inference_mode():
        prompt = backbone.encode_prompts(["a b c"])
        latents = noise
        for timestep, next_timestep in pairwise([*timesteps, -1]):
            epsilon = backbone.network(latents, timestep, prompt.embeddings).sample
            alpha, next_alpha = (
                schedule.alphas_cumprod[timestep],
                schedule.alphas_cumprod[next_timestep] if next_timestep >= 0 else torch.tensor(1.0),
            )
            clean = (latents - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()
            latents = next_alpha.sqrt() * clean + (1 - next_alpha).sqrt() * epsilon
        images = generate_images(backbone, backbone.encode_prompts, ["a b c"], [3], 5, 1.0)
        torch.testing.assert_close(images, backbone.decode(latents), atol=1e-4, rtol=1e-4)


def test_class_names_are_case_sensitive():
    names = ClassNameTokenizer(["A", "a", "b, c", "d"])
    assert len({*names.encode("A"), *names.encode("a"), *names.encode("b, c")}) == 3
    assert names.encode("A, d") == [*names.encode("A"), *names.encode("d")]
    assert names.encode("") == []


def test_an_empty_prompt_is_the_end_token_only():
    encoder = ConditioningEncoder(WordTokenizer(["red", "blue"]), 8, 4)
    conditioning = encoder(["", "red blue"])
    assert isinstance(conditioning, Conditioning)
    assert conditioning.mask.sum(1).tolist() == [1, 3]


# --- adapters


def test_lora_on_a_pipeline_saves_the_adapter_alone(pipeline, colored, tmp_path):
    settings = {"data.near_duplicates": 1, "task.prompt": "sks", "data.test": 0, "data.val": 0.2}
    with without_evaluation():
        result = foveate.fit(
            colored / "red",
            task="generate",
            backbone=f"diffusers:{pipeline}",
            tuning="lora",
            out=tmp_path / "run",
            settings=settings,
            device="cpu",
            epochs=2,
            batch_size=4,
        )
    names = read_tensors(result.run / "model.safetensors").keys()
    assert names
    assert all(
        "lora_" in name and "network" in name for name in names
    )  # neither autoencoder nor text encoder
    counts = Run.open(result.run).outcome()["parameters"]
    assert 0 < counts["trained"] < counts["all"] / 2
    first = foveate.evaluate(result.run, colored / "red").scores.numbers["explained"].value
    generated = foveate.generate(
        result.run, "sks", count=2, steps=3, out=tmp_path / "made", device="cpu"
    )
    baseline = foveate.generate(
        f"diffusers:{pipeline}",
        "sks",
        count=2,
        steps=3,
        guidance=2.0,
        out=tmp_path / "plain",
        device="cpu",
    )
    assert generated.count == baseline.count == 2
    assert (
        read_pixels(tmp_path / "made" / "0000.png") != read_pixels(tmp_path / "plain" / "0000.png")
    ).any()
    assert foveate.evaluate(result.run, colored / "red").scores.numbers["explained"].value == first


def test_full_tuning_freezes_autoencoder_and_text_encoder(pipeline, colored, tmp_path):
    settings = {"data.near_duplicates": 1, "data.test": 0}
    with without_evaluation():
        result = foveate.fit(
            colored / "red",
            task="generate",
            backbone=f"diffusers:{pipeline}",
            out=tmp_path / "run",
            settings=settings,
            device="cpu",
            epochs=1,
            batch_size=4,
        )
    assert {
        name.removeprefix("backbone.").split(".")[0]
        for name in read_tensors(result.run / "model.safetensors")
    } == {"network"}


# --- inpainting


@pytest.mark.parametrize("size", [(40, 60), (10, 70), (16, 16)])
@pytest.mark.parametrize("corner", [0, 5])
def test_inpainting_changes_no_pixel_outside_the_mask(trained, tmp_path, size, corner):
    rng = np.random.default_rng(0)
    before, mask = rng.integers(0, 256, (*size, 3), dtype=np.uint8), np.zeros(size, np.uint8)
    mask[corner : corner + 8, corner : corner + 9] = 255
    Image.fromarray(before).save(tmp_path / "picture.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    foveate.generate(
        trained.run,
        "red",
        image=tmp_path / "picture.png",
        mask=tmp_path / "mask.png",
        steps=4,
        out=tmp_path / "made",
        device="cpu",
    )
    after = read_pixels(tmp_path / "made" / "0000.png")
    assert (after[mask == 0] == before[mask == 0]).all()
    assert (after[mask > 0] != before[mask > 0]).any()


def test_inpainting_continues_the_surrounding_color(trained, tmp_path):
    """The prompt is empty: the color comes from the pixels around the mask."""
    rng = np.random.default_rng(3)
    Image.fromarray(solid_image(COLORS["red"], rng)).save(tmp_path / "picture.png")
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[4:12, 4:12] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    files = {"image": tmp_path / "picture.png", "mask": tmp_path / "mask.png"}
    foveate.generate(trained.run, "", out=tmp_path / "made", guidance=1.0, device="cpu", **files)
    inside = read_pixels(tmp_path / "made" / "0000.png")[4:12, 4:12].mean((0, 1))
    assert inside[0] > inside[2] + 60


def test_inpainting_ignores_the_masked_pixels(trained):
    """Two images that differ under the mask only give the same result."""
    model = load_predictor(trained.run, "cpu").model
    inside = torch.zeros(1, 1, SIDE, SIDE)
    inside[..., 4:12, 4:12] = 1
    clean = torch.rand(1, 3, SIDE, SIDE)
    masked_out = torch.where(inside > 0, torch.zeros_like(clean), clean)

    def encode_prompts(prompts):
        return model.head(prompts)

    results = [
        generate_images(
            model.backbone,
            encode_prompts,
            ["red"],
            [0],
            6,
            2.0,
            InitialImage(image, inpaint_mask=inside),
        )
        for image in (clean, masked_out)
    ]
    torch.testing.assert_close(results[0] * inside, results[1] * inside)


def test_a_low_strength_changes_an_image_little(trained, tmp_path):
    """The lower the strength, the nearer the result is to the image."""
    pixels = solid_image(COLORS["blue"], np.random.default_rng(4))
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    distances = []
    for index, strength in enumerate((0.1, 0.9)):
        foveate.generate(
            trained.run,
            "red",
            image=tmp_path / "picture.png",
            strength=strength,
            out=tmp_path / str(index),
            device="cpu",
        )
        distances.append(
            np.abs(read_pixels(tmp_path / str(index) / "0000.png").astype(int) - pixels).mean()
        )
    assert distances[0] < distances[1]


def test_inpainted_crops_are_pasted_back_in_place():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    mask = np.zeros((50, 80), bool)
    mask[10:20, 60:79] = True
    region = find_region(pixels, mask, 32)
    x, y, length = region.box
    assert x + length <= 80
    assert y + length <= 50
    assert (paste_region(pixels, mask, region, region.pixels)[~mask] == pixels[~mask]).all()
    assert length == 32
    assert (region.pixels == pixels[y : y + length, x : x + length]).all()


# --- distances


def test_distances_equal_torchmetrics():
    rng = np.random.default_rng(0)
    generated, real = rng.normal(size=(60, 12)), rng.normal(0.3, 1.4, (60, 12))
    assert kid(generated, real) == pytest.approx(
        float(poly_mmd(torch.tensor(generated), torch.tensor(real)))
    )
    moments = [
        (torch.tensor(features.mean(0)), torch.tensor(np.cov(features, rowvar=False)))
        for features in (generated, real)
    ]
    assert fid(generated, real) == pytest.approx(
        float(_compute_fid(*moments[0], *moments[1])), rel=1e-6
    )
    assert fid(generated, generated) == pytest.approx(0, abs=1e-6)
    halves = rng.normal(size=(400, 12))
    assert abs(kid(halves[:200], halves[200:])) < 0.02


def test_distances_name_their_feature_network(trained, colored, tmp_path, monkeypatch, capsys):
    from foveate.modeling.backbones.timm import TimmFamily

    original_open = TimmFamily.open

    def open_with_seed(self, name, weights, *rest):
        torch.manual_seed(1)  # features of the same random weights each time
        return original_open(self, name, "none", *rest)

    monkeypatch.setattr(TimmFamily, "open", open_with_seed)
    arguments = [
        "generate",
        str(trained.run),
        "red",
        "blue",
        "--count",
        "10",
        "--guidance",
        "1",
        "--reference",
        str(colored),
        "--feature-backbone",
        "test_efficientnet",
    ]
    assert cli._run([*arguments, "--out", str(tmp_path / "made"), "--device", "cpu", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["features"] == "test_efficientnet"
    assert result["num_real"] == 40
    assert result["comparisons"]["noise"]["kid"] > 2 * abs(
        result["comparisons"]["generated"]["kid"]
    )
    assert json.loads((tmp_path / "made" / "distances.json").read_text())["kid"] == result["kid"]


# --- style


def test_style_transfer_lowers_the_style_loss(tmp_path):
    rng = np.random.default_rng(0)
    waves = (128 + 100 * np.sin(np.arange(64) / 2))[None, :, None] * np.ones((64, 1, 3))
    Image.fromarray(waves.astype(np.uint8)).save(tmp_path / "style.png")
    Image.fromarray(rng.integers(100, 156, (48, 64, 3), dtype=np.uint8)).save(
        tmp_path / "content.png"
    )
    arguments = [
        "restyle",
        str(tmp_path / "content.png"),
        str(tmp_path / "style.png"),
        "--out",
        str(tmp_path / "made.png"),
    ]
    assert (
        cli._run(
            [
                *arguments,
                "--backbone",
                "test_resnet",
                "--weights",
                "none",
                "--steps",
                "40",
                "--size",
                "64",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    assert read_pixels(tmp_path / "made.png").shape == (48, 64, 3)
    assert (tmp_path / "made-comparison.png").is_file()
    (tmp_path / "words.txt").write_text("no picture")
    with pytest.raises(BrokenImage, match="words"):
        foveate.restyle(
            tmp_path / "content.png", tmp_path / "words.txt", out=tmp_path / "other.png"
        )
    with pytest.raises(UsageError, match="written as a PNG"):
        foveate.restyle(
            tmp_path / "content.png", tmp_path / "style.png", out=tmp_path / "other.jpg"
        )
    with pytest.raises(UsageError, match="already exists"):
        foveate.restyle(tmp_path / "content.png", tmp_path / "style.png", out=tmp_path / "made.png")
    result = foveate.restyle(
        tmp_path / "content.png",
        tmp_path / "style.png",
        out=tmp_path / "again.png",
        backbone="test_resnet",
        weights="none",
        steps=40,
        size=64,
        device="cpu",
    )
    before, after = result.style_losses
    assert after < 0.5 * before


# --- refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompts": "green"}, UnknownName, "green"),
        ({"strength": 0.5}, UsageError, "--strength requires --image"),
        ({"mask": "mask.png"}, UsageError, "--mask requires --image"),
        ({"image": "picture.png", "strength": 2.0}, UsageError, "at most 1"),
        (
            {"image": "picture.png", "mask": "small.png"},
            DataError,
            "the mask has 8 by 8 px, the image 16 by 16",
        ),
        ({"image": "picture.png", "mask": "black.png"}, DataError, "nothing to generate"),
        ({"image": "words.png"}, FoveateError, "cannot be decoded"),
        ({"reference": "nowhere"}, UsageError, "must be a folder"),
    ],
)
def test_invalid_generation_requests(trained, tmp_path, options, error, message):
    for name, side, value in (
        ("picture.png", 16, 90),
        ("mask.png", 16, 255),
        ("small.png", 8, 255),
        ("black.png", 16, 0),
    ):
        Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(tmp_path / name)
    (tmp_path / "words.png").write_text("no picture")
    arguments = {
        name: tmp_path / value if isinstance(value, str) and name != "prompts" else value
        for name, value in options.items()
    }
    with pytest.raises(error, match=message):
        foveate.generate(
            trained.run,
            arguments.pop("prompts", ()),
            out=tmp_path / "made",
            device="cpu",
            **arguments,
        )
    assert not (tmp_path / "made").exists()


def test_runs_that_are_no_generators_are_refused(stripes, tmp_path):
    with without_evaluation():
        result = foveate.fit(
            stripes,
            backbone="test_efficientnet",
            weights="none",
            size=32,
            out=tmp_path / "run",
            device="cpu",
        )
    with pytest.raises(UsageError, match="cannot generate images"):
        foveate.generate(result.run)
    with pytest.raises(UsageError, match="before it has been trained to"):
        foveate.generate("unet_small")
    with pytest.raises(UsageError, match="needs noise"):
        foveate.fit(
            stripes,
            task="generate",
            backbone="test_efficientnet",
            weights="none",
            out=tmp_path / "other",
        )
    with pytest.raises(UsageError, match="provides noise"):
        foveate.fit(stripes, backbone="unet_small", out=tmp_path / "other")


def test_generator_settings_are_checked(colored, stripes, tmp_path, pipeline):
    with pytest.raises(UsageError, match="a multiple of 4 px, got 33"):
        foveate.fit(colored, task="generate", size=33, out=tmp_path / "run")
    with pytest.raises(UsageError, match="a multiple of 4 px"):
        foveate.fit(
            colored,
            task="generate",
            backbone=f"diffusers:{pipeline}",
            size=18,
            out=tmp_path / "run",
        )
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="cannot be loaded"):
        foveate.fit(
            colored,
            task="generate",
            backbone=f"diffusers:{tmp_path / 'empty'}",
            out=tmp_path / "run",
        )
    (tmp_path / "long.jsonl").write_text(
        json.dumps({"path": str(next(colored.rglob("*.png"))), "text": "red " * 50})
    )
    with pytest.raises(DataError, match="the limit is 40"):
        foveate.fit(
            tmp_path / "long.jsonl",
            task="generate",
            size=SIDE,
            out=tmp_path / "run",
            settings={"data.val": 0, "data.test": 0},
            allow_outside=True,
        )
    with pytest.raises(UsageError, match="learns from boxes, and these data have labels"):
        foveate.fit(
            stripes,
            task="detect",
            backbone="test_efficientnet",
            weights="none",
            out=tmp_path / "other",
        )
