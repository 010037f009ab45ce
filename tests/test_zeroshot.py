"""Answers by the names of the classes: a small CLIP, OWLv2 and CLIPSeg that have learnt drawn circles, against their own libraries."""

from __future__ import annotations

import json
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
from foveate.cli import main as cli
from foveate.errors import DataError, FoveateError, UnknownName, UsageError
from foveate.inference.predictor import load_predictor
from foveate.modeling.model import build_model
from foveate.modeling.tunings._text import TEMPLATES
from foveate.recipe import Recipe, with_settings
from foveate.run.folder import Run
from foveate.types import Provides
from helpers import fit_unevaluated

open_clip = pytest.importorskip("open_clip")

COLOURS = {
    "red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 230), "white": (250, 250, 250), "black": (5, 5, 5), "pink": (250, 120, 200),
}  # fmt: skip
NAMES = [f"{colour} circle" for colour in COLOURS]
SIDE = 32
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "width": 24, "heads": 2, "layers": 1},
}
TEXT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 16,
    "max_position_embeddings": 12, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": SIDE, "patch_size": 8,
}  # fmt: skip


def drawn(rng: np.random.Generator, name: str) -> np.ndarray:
    """A circle somewhere on noise."""
    image = Image.fromarray(rng.integers(90, 160, (SIDE, SIDE, 3)).astype(np.uint8))
    size = int(rng.integers(10, 16))
    x, y = (int(value) for value in rng.integers(0, SIDE - size, 2))
    ImageDraw.Draw(image).ellipse((x, y, x + size, y + size), fill=COLOURS[name.split()[0]])
    return np.asarray(image)


def tensor(
    pixels: list[np.ndarray], mean: tuple[float, ...], std: tuple[float, ...]
) -> torch.Tensor:
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    return (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    """A CLIP that has seen 1,920 circles, each with its name in one of the usual sentences."""
    torch.manual_seed(0)
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("shapes-clip")
    model = open_clip.CustomTextCLIP(**CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    words = open_clip.get_tokenizer("ViT-B-32", context_length=12)
    ids = [words([template.replace("{}", name) for name in NAMES]) for template in TEMPLATES]
    for step in range(120):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 20) * (1 - step / 120)
        places = rng.integers(0, len(NAMES), 16)
        images = tensor([drawn(rng, NAMES[place]) for place in places], (0.5,) * 3, (0.25,) * 3)
        seen, said = (
            model.encode_image(images, normalize=True),
            model.encode_text(ids[step % len(ids)], normalize=True),
        )
        loss = functional.cross_entropy(20 * seen @ said.T, torch.from_numpy(places))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    content = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    rng, root = np.random.default_rng(1), tmp_path_factory.mktemp("shapes")
    for name in NAMES:
        (root / name.replace(" ", "_")).mkdir()
        for number in range(12):
            Image.fromarray(drawn(rng, name)).save(
                root / name.replace(" ", "_") / f"{number:02d}.png"
            )
    return root


def said(data: Path, clip: Path, **more) -> Recipe:
    words = {
        "data.path": str(data),
        "backbone.name": f"clip:{clip}",
        "tuning": "zeroshot",
        "device": "cpu",
        "data.near_duplicates": 1,
    }
    return with_settings(Recipe(), {**words, **more})


def test_names_are_enough(shapes, clip_folder, tmp_path):
    """Far above chance (1 in 6) without a training image, and the same when the run is loaded."""
    result = fit_recipe(said(shapes, clip_folder), tmp_path / "run")
    assert result.numbers()["accuracy"] > 0.6
    again = evaluate(result.run, shapes, device="cpu").numbers()["accuracy"]
    assert again > 0.6
    told = Run(result.run).outcome()
    assert told["parameters"]["trained"] == 0


def test_names_without_an_image_are_a_run(shapes, clip_folder, tmp_path, capsys):
    """From a list of names to answers; what they are worth, on images that come later."""
    names = tmp_path / "names.txt"
    names.write_text(
        "\ufeff" + "\n\n".join(name.replace(" ", "_") for name in NAMES) + "\r\n", encoding="utf-8"
    )
    words = [
        "fit",
        str(names),
        "--backbone",
        f"clip:{clip_folder}",
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        "--json",
    ]
    assert cli._run(words) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["run"] == str(tmp_path / "run")
    assert "tuning = zeroshot (only class names were given)" in printed.err
    assert (
        f"there were no images: score it with foveate evaluate {tmp_path / 'run'} DATA"
        in printed.err
    )
    assert Run(tmp_path / "run").classes() == tuple(name.replace(" ", "_") for name in NAMES)
    taught = fit_unevaluated(said(shapes, clip_folder), tmp_path / "taught").run
    assert evaluate(tmp_path / "run", shapes, device="cpu").numbers()["accuracy"] > 0.6
    for mine, theirs in zip(
        *(foveate.predict(run, shapes) for run in (tmp_path / "run", taught)), strict=True
    ):
        assert mine.prediction.names == theirs.prediction.names
    with pytest.raises(FoveateError, match="no images of its own"):
        evaluate(tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("cat\ndog\n cat \n", "'cat' is listed twice"),
        ("\n \n", "class names is empty"),
        ("\xff\xfe\x00", "cannot be read"),
    ],
)
def test_bad_lists_of_names_are_one_sentence(clip_folder, tmp_path, content, sentence):
    file = tmp_path / "names.txt"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=sentence):
        fit_recipe(said(file, clip_folder), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_names_alone_teach_nothing_else(clip_folder, tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("cat\ndog\n")
    for tuning in ("tip", "coop", "probe", "full"):
        with pytest.raises(
            UsageError, match=f"{tuning!r} learns from images, but only class names were given"
        ):
            fit_recipe(said(file, clip_folder, tuning=tuning), tmp_path / "run")
    with pytest.raises(DataError, match="class names but no images"):
        fit_recipe(said(file, clip_folder, tuning="auto"), tmp_path / "run")
    with pytest.raises(DataError, match="class names but no images"):
        foveate.episodes(file)
    with pytest.raises(FoveateError, match="no image"):
        foveate.models("resnet18:none", compare=file)
    with pytest.raises(FoveateError, match="no image"):
        foveate.convert(file, "coco", tmp_path / "coco")
    with pytest.raises(UsageError, match="needs a backbone with a text encoder"):
        fit_recipe(
            with_settings(
                Recipe(),
                {"data.path": str(file), "backbone.name": "test_vit", "backbone.weights": "none"},
            ),
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


def test_the_classifier_is_open_clips_own(shapes, clip_folder, tmp_path):
    run = fit_unevaluated(
        said(shapes, clip_folder, **{"data.val": 0.2, "data.test": 0.2}), tmp_path / "run"
    ).run
    model, backbone = load_predictor(run, "cpu").model, load_predictor(run, "cpu").model.backbone
    own = open_clip.CustomTextCLIP(**CONFIG)
    from safetensors.torch import load_file

    own.load_state_dict(load_file(clip_folder / "open_clip_model.safetensors"))
    words = open_clip.get_tokenizer("ViT-B-32", context_length=12)
    templates = [lambda name, each=each: each.replace("{}", name) for each in TEMPLATES]
    with torch.inference_mode():
        wanted = open_clip.build_zero_shot_classifier(
            own.eval(), words, sorted(NAMES), templates, use_tqdm=False
        )
        torch.testing.assert_close(model.head.text, wanted.T, rtol=1e-5, atol=1e-5)
        images = torch.randn(3, 3, SIDE, SIDE)
        logits = model.head(backbone(images, {Provides.POOLED}))
        reference = own.logit_scale.exp() * own.encode_image(images, normalize=True) @ wanted
    torch.testing.assert_close(logits, reference, rtol=1e-4, atol=1e-4)


def test_prompts_of_a_file_stand_in_the_recipe(shapes, clip_folder, tmp_path):
    file = tmp_path / "prompts.yaml"
    file.write_text(
        "\n".join(f"{name.replace(' ', '_')}: [a photo of a {name}., '{name}']" for name in NAMES)
    )
    run = fit_unevaluated(
        said(shapes, clip_folder, **{"tuning.prompts": str(file)}), tmp_path / "run"
    ).run
    file.unlink()
    assert Run(run).recipe().tuning.settings["prompts"]["red_circle"] == [
        "a photo of a red circle.",
        "red circle",
    ]
    assert evaluate(run, shapes, device="cpu").numbers()["accuracy"] > 0.6


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("red_circle: a\nred_circle: b\n", "'red_circle' is listed twice"),
        ("black_circle: ''\n", "'black_circle' has no prompt, or an empty one"),
        ("red_circle: a red circle\n", "has no prompt, or an empty one"),
        ("- red\n", "must map each class to one or more sentences"),
        ("a: b: c\n", "neither YAML nor JSON"),
    ],
)
def test_bad_prompt_files_are_one_sentence(shapes, clip_folder, tmp_path, content, sentence):
    file = tmp_path / "prompts.yaml"
    file.write_text(content)
    with pytest.raises(UsageError, match=sentence):
        fit_recipe(said(shapes, clip_folder, **{"tuning.prompts": str(file)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_words_are_one_sentence(shapes, clip_folder, tmp_path):
    with pytest.raises(UsageError, match="the prompt file does not exist"):
        fit_recipe(
            said(shapes, clip_folder, **{"tuning.prompts": "nowhere.yaml"}), tmp_path / "run"
        )
    with pytest.raises(UsageError, match="for the class name"):
        fit_recipe(said(shapes, clip_folder, **{"tuning.templates": ["a photo"]}), tmp_path / "run")
    with pytest.raises(UnknownName, match="red_circel"):
        fit_recipe(
            said(shapes, clip_folder, **{"tuning.prompts": {"red_circel": "a"}}), tmp_path / "run"
        )
    words = {
        "backbone.name": "test_vit",
        "backbone.weights": "none",
        "task": "classify",
        "tuning": "zeroshot",
    }
    with pytest.raises(UsageError, match="needs a backbone with a text encoder"):
        build_model(with_settings(Recipe(), words), ("a", "b"))


# --- networks that find things by name


def tokenizer_in(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [
        "<pad>",
        "<s>",
        "</s>",
        "<unk>",
        "a",
        "photo",
        "picture",
        "of",
        "the",
        "red",
        "green",
        "blue",
        "circle",
        "square",
        "background",
    ]
    found = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>")
    )
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=found, **names).save_pretrained(folder)


def saved(network, folder: Path) -> Path:
    folder.mkdir()
    network.config.save_pretrained(folder)
    save_file(
        {name: value.contiguous() for name, value in network.state_dict().items()},
        folder / "model.safetensors",
    )
    tokenizer_in(folder)
    return folder


@pytest.fixture(scope="session")
def owl_folder(tmp_path_factory) -> Path:
    from transformers import Owlv2Config, Owlv2ForObjectDetection

    torch.manual_seed(0)
    return saved(
        Owlv2ForObjectDetection(
            Owlv2Config(text_config=TEXT, vision_config=VISION, projection_dim=16)
        ),
        tmp_path_factory.mktemp("hf") / "owl",
    )


@pytest.fixture(scope="session")
def clipseg_folder(tmp_path_factory) -> Path:
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    torch.manual_seed(0)
    more = {
        "extract_layers": [0, 1],
        "reduce_dim": 8,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 16,
    }
    config = CLIPSegConfig(text_config=TEXT, vision_config=VISION, projection_dim=16, **more)
    return saved(CLIPSegForImageSegmentation(config), tmp_path_factory.mktemp("hf") / "clipseg")


def native(folder: Path, task: str) -> Recipe:
    words = {
        "backbone.name": f"hf:{folder}",
        "task": {"name": task, "head": "native"},
        "tuning": {"name": "zeroshot", "templates": ["a {}"]},
    }
    return with_settings(Recipe(), words)


def test_owlv2_finds_what_the_library_finds(owl_folder):
    """Boxes and logits of the library's own forward pass, post-processed by its own processor."""
    from transformers.models.owlv2.image_processing_owlv2 import Owlv2ImageProcessor

    model = build_model(native(owl_folder, "detect"), ("red circle", "blue circle"))
    images = torch.randn(2, 3, SIDE, SIDE)
    own = model.backbone
    ids = own._tokenize(["a red circle", "a blue circle"])
    with torch.inference_mode():
        boxes, logits = own(images, {Provides.NATIVE}).native
        asked = {name: ids[name].repeat(2, 1) for name in ("input_ids", "attention_mask")}
        reference = own.network(pixel_values=images, **asked)
    torch.testing.assert_close(logits, reference.logits, rtol=1e-4, atol=1e-4)
    wanted = Owlv2ImageProcessor().post_process_object_detection(
        reference, threshold=0.01, target_sizes=[(SIDE, SIDE)] * 2
    )
    found = model.task.detector.candidates(model.head.network((boxes, logits), (SIDE, SIDE)))
    for mine, theirs in zip(found, wanted, strict=True):
        order = theirs["scores"].argsort(descending=True, stable=True)
        torch.testing.assert_close(mine.scores, theirs["scores"][order], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.boxes, theirs["boxes"][order], rtol=1e-3, atol=1e-3)
        assert mine.classes.tolist() == theirs["labels"][order].tolist()


def test_clipseg_paints_what_the_library_paints(clipseg_folder):
    model = build_model(native(clipseg_folder, "segment"), ("red circle", "background"))
    images, own = torch.randn(2, 3, SIDE, SIDE), model.backbone
    with torch.inference_mode():
        found = own(images, {Provides.NATIVE}).native
        for place, sentence in enumerate(("a red circle", "a background")):
            ids = own._tokenize([sentence])
            asked = {name: ids[name].repeat(2, 1) for name in ("input_ids", "attention_mask")}
            reference = own.network(pixel_values=images, **asked).logits
            torch.testing.assert_close(found[:, place], reference, rtol=1e-4, atol=1e-4)


def test_what_finds_by_itself_is_not_trained(owl_folder):
    model = build_model(
        with_settings(native(owl_folder, "detect"), {"tuning": "full"}),
        ("red circle", "blue circle"),
    )
    with pytest.raises(UsageError, match="cannot be trained"):
        model.task.detector.loss(None, [])


def test_folders_that_are_not_such_a_network(tmp_path, owl_folder):
    with pytest.raises(UsageError, match=r"no config.json"):
        build_model(native(tmp_path, "detect"), ("a",))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UsageError, match="do not predict classes given as text"):
        build_model(native(tmp_path, "detect"), ("a",))
    with pytest.raises(UsageError, match="a multiple of 8 px"):
        build_model(with_settings(native(owl_folder, "detect"), {"backbone.size": 36}), ("a",))


def test_sentences_can_be_asked_about(shapes, clip_folder, tmp_path):
    """What a picture says to a sentence about it is more than what it says to one about another; the map says where."""
    run = fit_unevaluated(said(shapes, clip_folder), tmp_path / "run").run
    own, other = (
        sorted(folder for folder in shapes.iterdir() if folder.is_dir())[place] for place in (0, 1)
    )
    pictures = sorted(own.iterdir())[:4]
    sentences = [f"a photo of a {folder.name.replace('_', ' ')}." for folder in (own, other)]
    found = foveate.explain(
        run, pictures, methods=["occlusion"], texts=sentences, out=tmp_path / "why", device="cpu"
    ).found
    assert [why.label for why in found] == sentences * 4
    right, wrong = (
        np.mean([why.probability for why in found if why.label == sentence])
        for sentence in sentences
    )
    assert right > wrong
    assert all(float(why.map.max()) > float(why.map.min()) for why in found)
