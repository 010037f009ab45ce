"""Image generators: what they learn, what a seed promises, what a mask protects, what a distance means; and one picture like another."""

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
from helpers import evaluation_left_out

pytest.importorskip("diffusers", reason="needs the extra 'generate'")
COLOURS = {"blue": (40, 70, 220), "red": (220, 40, 40)}
SIDE = 16
SMALL = {"size": SIDE, "device": "cpu", "batch_size": 8, "epochs": 1}
QUICK = {**SMALL, "backbone": "unet_mini", "epochs": 16, "lr": 4e-3}


@pytest.fixture(scope="module", autouse=True)
def mini_network():
    """`unet_small` with half of its channels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(unet._CHANNELS, "unet_mini", 16)
        yield


def plain(colour, rng: np.random.Generator) -> np.ndarray:
    """A square of about this colour."""
    return (
        (np.array(colour) + rng.integers(-25, 26, 3) + rng.integers(-4, 5, (SIDE, SIDE, 3)))
        .clip(0, 255)
        .astype(np.uint8)
    )


@pytest.fixture(scope="module")
def coloured(tmp_path_factory) -> Path:
    root, rng = tmp_path_factory.mktemp("coloured"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for place in range(20):
            Image.fromarray(plain(colour, rng)).save(root / name / f"{place}.png")
    return root


@pytest.fixture(scope="module")
def learnt(coloured, tmp_path_factory):
    settings = {"training.ema": 0.8, "data.near_duplicates": 1, "data.leakage_audit": False}
    return foveate.fit(
        coloured,
        task="generate",
        out=tmp_path_factory.mktemp("runs") / "run",
        settings=settings,
        **QUICK,
    )


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """Stable Diffusion's parts, tiny and with random weights."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    root = tmp_path_factory.mktemp("pipeline")
    letters = [chr(number) for number in range(97, 123)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (root / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
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
        plan = CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_attention_heads=2,
            num_hidden_layers=1,
            max_position_embeddings=16,
            **ids,
        )
        text = CLIPTextModel(plan)
    schedule = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )
    whole = StableDiffusionPipeline(
        vae, text, tokenizer, unet, schedule, None, None, requires_safety_checker=False
    )
    whole.save_pretrained(root / "tiny")
    return root / "tiny"


def pixels_of(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


# --- learning


def test_a_class_is_painted_in_its_colour(learnt, tmp_path):
    """Twelve pictures of each class: their mean colour is nearest to the class's."""
    found = foveate.generate(
        learnt.run, list(COLOURS), count=12, out=tmp_path / "made", device="cpu"
    )
    made = [pixels_of(tmp_path / "made" / f"{place:04d}.png").mean((0, 1)) for place in range(24)]
    far = np.array(
        [[np.abs(mean - np.array(colour)).sum() for colour in COLOURS.values()] for mean in made]
    )
    assert found.count == 24
    assert (far.argmin(1) == np.repeat([0, 1], 12)).mean() > 0.9
    assert learnt.evaluation.scores.main == "explained"
    assert learnt.evaluation.scores.numbers["explained"].value > 0.7
    rows = Run.open(learnt.run).read_metrics()
    assert rows[-1]["val_explained"] > rows[0]["val_explained"] + 0.2


def test_what_was_held_out_is_judged_with_the_same_noise_each_time(learnt, coloured):
    one, other = (foveate.evaluate(learnt.run).scores.numbers["explained"].value for _ in range(2))
    assert one == other
    assert load_predictor(learnt.run).run.outcome()["images"]["test"] > 0
    assert (
        "Generated images"
        in next((learnt.run / "evaluations").glob("test/report.html")).read_text()
    )


def test_a_seed_is_a_picture(learnt, tmp_path):
    """Whatever else is painted beside it; and the PNG says how it was made."""
    foveate.generate(learnt.run, "red", count=3, seed=5, out=tmp_path / "three", device="cpu")
    foveate.generate(learnt.run, "red", count=1, seed=6, out=tmp_path / "one", device="cpu")
    mine, other = (
        pixels_of(tmp_path / "three" / "0001.png").astype(int),
        pixels_of(tmp_path / "one" / "0000.png").astype(int),
    )
    assert np.abs(mine - other).max() <= 1  # another batch adds in another order
    first = pixels_of(tmp_path / "three" / "0000.png").astype(int)
    assert np.abs(first - other).max() > 1
    told = Image.open(tmp_path / "one" / "0000.png").text
    assert (told["prompt"], told["seed"], told["model"]) == ("red", "6", learnt.run.name)
    assert "shows nothing that was there" in told["note"]
    rows = read_table(tmp_path / "three" / "pictures.jsonl").samples  # it can be learnt from
    assert [row.target.sentences for row in rows] == [("red",)] * 3


def test_sentences_teach_colours_too(coloured, tmp_path):
    lines = [
        {"path": str(file), "text": f"a {file.parent.name} square"}
        for file in sorted(coloured.rglob("*.png"))
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    settings = {"training.ema": 0.8, "data.near_duplicates": 1, "data.test": 0}
    with evaluation_left_out():
        found = foveate.fit(
            tmp_path / "data.jsonl",
            task="generate",
            out=tmp_path / "run",
            settings=settings,
            **QUICK,
        )
    assert set(Run.open(found.run).recipe().task.settings["vocabulary"]) == {
        "a",
        "square",
        "red",
        "blue",
    }
    foveate.generate(
        found.run, ["a red square", "a blue square"], count=6, out=tmp_path / "made", device="cpu"
    )
    red, blue = (
        np.mean(
            [pixels_of(tmp_path / "made" / f"{place:04d}.png").mean((0, 1)) for place in places], 0
        )
        for places in (range(6), range(6, 12))
    )
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50


def test_pictures_without_labels_are_enough(coloured, tmp_path):
    assert read_table(coloured / "red").format == "unlabeled"
    assert isinstance(read_table(coloured / "red").samples[0].target, ImagePrediction)
    settings = {"data.near_duplicates": 1, "task.prompt": "a photo of sks", "data.test": 0}
    with evaluation_left_out():
        found = foveate.fit(
            coloured / "red",
            task="generate",
            out=tmp_path / "run",
            settings=settings,
            **SMALL,
        )
    assert Run.open(found.run).recipe().task.settings["example_prompts"] == ["a photo of sks"]
    with pytest.raises(UsageError, match=r"have no labels.*--task generate"):
        foveate.fit(coloured / "red", out=tmp_path / "other")


def test_tensorboard_shows_what_it_makes(coloured, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {"data.near_duplicates": 1, "training.tensorboard": True, "task.steps": 2}
    with evaluation_left_out():
        found = foveate.fit(
            coloured,
            task="generate",
            out=tmp_path / "run",
            settings=settings,
            **{**QUICK, "epochs": 2},
        )
    events = EventAccumulator(str(found.run / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == ["0: blue", "1: red"]
    assert len(events.Images("1: red")) == 2


# --- the arithmetic of diffusion


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_the_right_answer_parts_picture_and_noise(kind, pipeline):
    backbone = (
        family_of("unet_small").open("unet_small", "none", SIDE)
        if kind == "flow"
        else family_of("diffusers:").open(f"diffusers:{pipeline}", "auto")
    )
    backbone.prediction_type = kind
    clean, noise = torch.randn(2, 5, *backbone.latent_shape)
    time = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    seen = backbone.add_noise(clean, noise, time)
    found = backbone.predict_x0_eps(seen, backbone.target(clean, noise, time), time)
    torch.testing.assert_close(found[0], clean, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found[1], noise, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(backbone.add_noise(clean, noise, torch.zeros(5)), clean)


def test_steps_are_those_of_ddim(pipeline):
    """Against diffusers' own scheduler, which starts at the same places."""
    from diffusers import DDIMScheduler

    backbone = family_of("diffusers:").open(f"diffusers:{pipeline}", "auto").eval()
    schedule = DDIMScheduler.from_pretrained(pipeline, subfolder="scheduler", set_alpha_to_one=True)
    places = [round(time * 999) for time in np.linspace(0.98, 0, 6)[:-1]]
    seen = torch.randn(backbone.latent_shape, generator=torch.Generator().manual_seed(3))[None]
    with torch.inference_mode():
        said = backbone.encode_prompts(["a b c"])
        theirs = seen
        for place, after in pairwise([*places, -1]):
            answer = backbone.network(theirs, place, said.embeddings).sample
            here, there = (
                schedule.alphas_cumprod[place],
                schedule.alphas_cumprod[after] if after >= 0 else torch.tensor(1.0),
            )
            clean = (theirs - (1 - here).sqrt() * answer) / here.sqrt()
            theirs = there.sqrt() * clean + (1 - there).sqrt() * answer
        mine = generate_images(backbone, backbone.encode_prompts, ["a b c"], [3], 5, 1.0)
        torch.testing.assert_close(mine, backbone.decode(theirs), atol=1e-4, rtol=1e-4)


def test_names_are_taken_as_they_are_written():
    names = ClassNameTokenizer(["A", "a", "b, c", "d"])
    assert len({*names.encode("A"), *names.encode("a"), *names.encode("b, c")}) == 3
    assert names.encode("A, d") == [*names.encode("A"), *names.encode("d")]
    assert names.encode("") == []


def test_what_is_silent_says_nothing_but_its_end():
    reader = ConditioningEncoder(WordTokenizer(["red", "blue"]), 8, 4)
    said = reader(["", "red blue"])
    assert isinstance(said, Conditioning)
    assert said.mask.sum(1).tolist() == [1, 3]


# --- adapters


def test_lora_on_a_pipeline_saves_the_adapter_alone(pipeline, coloured, tmp_path):
    settings = {"data.near_duplicates": 1, "task.prompt": "sks", "data.test": 0, "data.val": 0.2}
    with evaluation_left_out():
        found = foveate.fit(
            coloured / "red",
            task="generate",
            backbone=f"diffusers:{pipeline}",
            tuning="lora",
            out=tmp_path / "run",
            settings=settings,
            device="cpu",
            epochs=2,
            batch_size=4,
        )
    names = read_tensors(found.run / "model.safetensors").keys()
    assert names
    assert all(
        "lora_" in name and "network" in name for name in names
    )  # neither autoencoder nor text encoder
    numbers = Run.open(found.run).outcome()["parameters"]
    assert 0 < numbers["trained"] < numbers["all"] / 2
    first = foveate.evaluate(found.run, coloured / "red").scores.numbers["explained"].value
    made = foveate.generate(found.run, "sks", count=2, steps=3, out=tmp_path / "made", device="cpu")
    plain_ = foveate.generate(
        f"diffusers:{pipeline}",
        "sks",
        count=2,
        steps=3,
        guidance=2.0,
        out=tmp_path / "plain",
        device="cpu",
    )
    assert made.count == plain_.count == 2
    assert (
        pixels_of(tmp_path / "made" / "0000.png") != pixels_of(tmp_path / "plain" / "0000.png")
    ).any()
    assert foveate.evaluate(found.run, coloured / "red").scores.numbers["explained"].value == first


def test_full_tuning_leaves_autoencoder_and_text_alone(pipeline, coloured, tmp_path):
    settings = {"data.near_duplicates": 1, "data.test": 0}
    with evaluation_left_out():
        found = foveate.fit(
            coloured / "red",
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
        for name in read_tensors(found.run / "model.safetensors")
    } == {"network"}


# --- inpainting


@pytest.mark.parametrize("size", [(40, 60), (10, 70), (16, 16)])
@pytest.mark.parametrize("corner", [0, 5])
def test_every_pixel_beside_the_mask_stays(learnt, tmp_path, size, corner):
    rng = np.random.default_rng(0)
    before, mask = rng.integers(0, 256, (*size, 3), dtype=np.uint8), np.zeros(size, np.uint8)
    mask[corner : corner + 8, corner : corner + 9] = 255
    Image.fromarray(before).save(tmp_path / "picture.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    foveate.generate(
        learnt.run,
        "red",
        image=tmp_path / "picture.png",
        mask=tmp_path / "mask.png",
        steps=4,
        out=tmp_path / "made",
        device="cpu",
    )
    after = pixels_of(tmp_path / "made" / "0000.png")
    assert (after[mask == 0] == before[mask == 0]).all()
    assert (after[mask > 0] != before[mask > 0]).any()


def test_a_hole_in_red_is_filled_with_red(learnt, tmp_path):
    """The words say nothing here: the colour comes from what is beside the hole."""
    rng = np.random.default_rng(3)
    Image.fromarray(plain(COLOURS["red"], rng)).save(tmp_path / "picture.png")
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[4:12, 4:12] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    files = {"image": tmp_path / "picture.png", "mask": tmp_path / "mask.png"}
    foveate.generate(learnt.run, "", out=tmp_path / "made", guidance=1.0, device="cpu", **files)
    inside = pixels_of(tmp_path / "made" / "0000.png")[4:12, 4:12].mean((0, 1))
    assert inside[0] > inside[2] + 60


def test_what_lies_under_a_mask_is_not_seen(learnt):
    """Painted anew, two pictures that differ under the mask alone come out alike."""
    model = load_predictor(learnt.run, "cpu").model
    inside = torch.zeros(1, 1, SIDE, SIDE)
    inside[..., 4:12, 4:12] = 1
    clean = torch.rand(1, 3, SIDE, SIDE)
    others = torch.where(inside > 0, torch.zeros_like(clean), clean)

    def read(sentences):
        return model.head(sentences)

    found = [
        generate_images(
            model.backbone, read, ["red"], [0], 6, 2.0, InitialImage(each, inpaint_mask=inside)
        )
        for each in (clean, others)
    ]
    torch.testing.assert_close(found[0] * inside, found[1] * inside)


def test_a_little_noise_changes_a_picture_little(learnt, tmp_path):
    """What is restored lies nearer to the picture, the less of it was lost."""
    picture = plain(COLOURS["blue"], np.random.default_rng(4))
    Image.fromarray(picture).save(tmp_path / "picture.png")
    far = []
    for place, strength in enumerate((0.1, 0.9)):
        foveate.generate(
            learnt.run,
            "red",
            image=tmp_path / "picture.png",
            strength=strength,
            out=tmp_path / str(place),
            device="cpu",
        )
        far.append(
            np.abs(pixels_of(tmp_path / str(place) / "0000.png").astype(int) - picture).mean()
        )
    assert far[0] < far[1]


def test_squares_of_holes_come_back_to_their_place():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    mask = np.zeros((50, 80), bool)
    mask[10:20, 60:79] = True
    found = find_region(pixels, mask, 32)
    x, y, length = found.box
    assert x + length <= 80
    assert y + length <= 50
    assert (paste_region(pixels, mask, found, found.pixels)[~mask] == pixels[~mask]).all()
    assert length == 32
    assert (found.pixels == pixels[y : y + length, x : x + length]).all()


# --- distances


def test_distances_are_those_of_torchmetrics():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(60, 12)), rng.normal(0.3, 1.4, (60, 12))
    assert kid(ours, theirs) == pytest.approx(
        float(poly_mmd(torch.tensor(ours), torch.tensor(theirs)))
    )
    moments = [
        (torch.tensor(each.mean(0)), torch.tensor(np.cov(each, rowvar=False)))
        for each in (ours, theirs)
    ]
    assert fid(ours, theirs) == pytest.approx(
        float(_compute_fid(*moments[0], *moments[1])), rel=1e-6
    )
    assert fid(ours, ours) == pytest.approx(0, abs=1e-6)
    halves = rng.normal(size=(400, 12))
    assert abs(kid(halves[:200], halves[200:])) < 0.02


def test_distances_name_whose_they_are(learnt, coloured, tmp_path, monkeypatch, capsys):
    from foveate.modeling.backbones.timm import TimmFamily

    plain_open = TimmFamily.open

    def drawn(self, name, weights, *rest):
        torch.manual_seed(1)  # features of the same random weights each time
        return plain_open(self, name, "none", *rest)

    monkeypatch.setattr(TimmFamily, "open", drawn)
    words = [
        "generate",
        str(learnt.run),
        "red",
        "blue",
        "--count",
        "10",
        "--guidance",
        "1",
        "--reference",
        str(coloured),
        "--feature-backbone",
        "test_efficientnet",
    ]
    assert cli._run([*words, "--out", str(tmp_path / "made"), "--device", "cpu", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["features"] == "test_efficientnet"
    assert told["real"] == 40
    assert told["compare"]["noise"]["kid"] > 2 * abs(told["compare"]["generated"]["kid"])
    assert json.loads((tmp_path / "made" / "distances.json").read_text())["kid"] == told["kid"]


# --- style


def test_the_style_comes_nearer(tmp_path):
    rng = np.random.default_rng(0)
    waves = (128 + 100 * np.sin(np.arange(64) / 2))[None, :, None] * np.ones((64, 1, 3))
    Image.fromarray(waves.astype(np.uint8)).save(tmp_path / "style.png")
    Image.fromarray(rng.integers(100, 156, (48, 64, 3), dtype=np.uint8)).save(
        tmp_path / "content.png"
    )
    words = [
        "restyle",
        str(tmp_path / "content.png"),
        str(tmp_path / "style.png"),
        "--out",
        str(tmp_path / "made.png"),
    ]
    assert (
        cli._run(
            [
                *words,
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
    assert pixels_of(tmp_path / "made.png").shape == (48, 64, 3)
    assert (tmp_path / "made-beside.png").is_file()
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
    found = foveate.restyle(
        tmp_path / "content.png",
        tmp_path / "style.png",
        out=tmp_path / "again.png",
        backbone="test_resnet",
        weights="none",
        steps=40,
        size=64,
        device="cpu",
    )
    before, after = found.found.style
    assert after < 0.5 * before


# --- what is refused


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        ({"prompts": "green"}, UnknownName, "green"),
        ({"strength": 0.5}, UsageError, "strength is that of changing a picture"),
        ({"mask": "mask.png"}, UsageError, "--mask requires --image"),
        ({"image": "picture.png", "strength": 2.0}, UsageError, "1 at the most"),
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
def test_wishes_that_cannot_be_met(learnt, tmp_path, words, kind, said):
    for name, side, value in (
        ("picture.png", 16, 90),
        ("mask.png", 16, 255),
        ("small.png", 8, 255),
        ("black.png", 16, 0),
    ):
        Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(tmp_path / name)
    (tmp_path / "words.png").write_text("no picture")
    given = {
        name: tmp_path / value if isinstance(value, str) and name != "prompts" else value
        for name, value in words.items()
    }
    with pytest.raises(kind, match=said):
        foveate.generate(
            learnt.run, given.pop("prompts", ()), out=tmp_path / "made", device="cpu", **given
        )
    assert not (tmp_path / "made").exists()


def test_what_paints_nothing_is_told_so(stripes, tmp_path):
    with evaluation_left_out():
        found = foveate.fit(
            stripes,
            backbone="test_efficientnet",
            weights="none",
            size=32,
            out=tmp_path / "run",
            device="cpu",
        )
    with pytest.raises(UsageError, match="paints nothing"):
        foveate.generate(found.run)
    with pytest.raises(UsageError, match="before it has learnt to"):
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


def test_settings_of_generators_are_checked(coloured, stripes, tmp_path, pipeline):
    with pytest.raises(UsageError, match="a multiple of 4 px, got 33"):
        foveate.fit(coloured, task="generate", size=33, out=tmp_path / "run")
    with pytest.raises(UsageError, match="a multiple of 4 px"):
        foveate.fit(
            coloured,
            task="generate",
            backbone=f"diffusers:{pipeline}",
            size=18,
            out=tmp_path / "run",
        )
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="cannot be loaded"):
        foveate.fit(
            coloured,
            task="generate",
            backbone=f"diffusers:{tmp_path / 'empty'}",
            out=tmp_path / "run",
        )
    (tmp_path / "long.jsonl").write_text(
        json.dumps({"path": str(next(coloured.rglob("*.png"))), "text": "red " * 50})
    )
    with pytest.raises(DataError, match="the limit is 40"):
        foveate.fit(
            tmp_path / "long.jsonl",
            task="generate",
            size=SIDE,
            out=tmp_path / "run",
            settings={"data.val": 0, "data.test": 0},
        )
    with pytest.raises(UsageError, match="learns from boxes, and this data has labels"):
        foveate.fit(
            stripes,
            task="detect",
            backbone="test_efficientnet",
            weights="none",
            out=tmp_path / "other",
        )
