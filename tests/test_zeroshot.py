"""Zero-shot predictions of small CLIP, OWLv2 and CLIPSeg models equal their libraries."""

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

COLORS = {
    "red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 230), "white": (250, 250, 250), "black": (5, 5, 5), "pink": (250, 120, 200),
}  # fmt: skip
NAMES = [f"{color} circle" for color in COLORS]
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


def draw_circle(rng: np.random.Generator, name: str) -> np.ndarray:
    """Draw a circle at a random position on noise."""
    image = Image.fromarray(rng.integers(90, 160, (SIDE, SIDE, 3)).astype(np.uint8))
    size = int(rng.integers(10, 16))
    x, y = (int(value) for value in rng.integers(0, SIDE - size, 2))
    ImageDraw.Draw(image).ellipse((x, y, x + size, y + size), fill=COLORS[name.split()[0]])
    return np.asarray(image)


def normalize(
    pixels: list[np.ndarray], mean: tuple[float, ...], std: tuple[float, ...]
) -> torch.Tensor:
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    return (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    """A CLIP trained on 1,920 circles, each with its name in one of the usual templates."""
    torch.manual_seed(0)
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("shapes-clip")
    model = open_clip.CustomTextCLIP(**CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=12)
    ids = [tokenizer([template.replace("{}", name) for name in NAMES]) for template in TEMPLATES]
    for step in range(120):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 20) * (1 - step / 120)
        labels = rng.integers(0, len(NAMES), 16)
        images = normalize(
            [draw_circle(rng, NAMES[label]) for label in labels], (0.5,) * 3, (0.25,) * 3
        )
        image_features, text_features = (
            model.encode_image(images, normalize=True),
            model.encode_text(ids[step % len(ids)], normalize=True),
        )
        loss = functional.cross_entropy(
            20 * image_features @ text_features.T, torch.from_numpy(labels)
        )
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
            Image.fromarray(draw_circle(rng, name)).save(
                root / name.replace(" ", "_") / f"{number:02d}.png"
            )
    return root


def zeroshot_recipe(data: Path, clip: Path, **more) -> Recipe:
    settings = {
        "data.path": str(data),
        "backbone.name": f"clip:{clip}",
        "tuning": "zeroshot",
        "device": "cpu",
        "data.near_duplicates": 1,
    }
    return with_settings(Recipe(), {**settings, **more})


def test_class_names_are_enough(shapes, clip_folder, tmp_path):
    """Accuracy is far above chance (1 in 6) without training images, also after loading the run."""
    result = fit_recipe(zeroshot_recipe(shapes, clip_folder), tmp_path / "run")
    assert result.numbers()["accuracy"] > 0.6
    loaded_accuracy = evaluate(result.run, shapes, device="cpu").numbers()["accuracy"]
    assert loaded_accuracy > 0.6
    outcome = Run(result.run).outcome()
    assert outcome["parameters"]["trained"] == 0


def test_class_names_without_images_make_a_run(shapes, clip_folder, tmp_path, capsys):
    """A run from a list of names makes predictions and can be evaluated on images later."""
    names = tmp_path / "names.txt"
    names.write_text(
        "\ufeff" + "\n\n".join(name.replace(" ", "_") for name in NAMES) + "\r\n", encoding="utf-8"
    )
    arguments = [
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
    assert cli._run(arguments) == 0
    output = capsys.readouterr()
    assert json.loads(output.out.splitlines()[-1])["run"] == str(tmp_path / "run")
    assert "tuning = zeroshot (only class names were given)" in output.err
    assert (
        f"there were no images: score it with foveate evaluate {tmp_path / 'run'} DATA"
        in output.err
    )
    assert Run(tmp_path / "run").classes() == tuple(name.replace(" ", "_") for name in NAMES)
    with_images = fit_unevaluated(
        zeroshot_recipe(shapes, clip_folder), tmp_path / "with_images"
    ).run
    assert evaluate(tmp_path / "run", shapes, device="cpu").numbers()["accuracy"] > 0.6
    for from_names, expected in zip(
        *(foveate.predict(run, shapes) for run in (tmp_path / "run", with_images)), strict=True
    ):
        assert from_names.prediction.names == expected.prediction.names
    with pytest.raises(FoveateError, match="no images of its own"):
        evaluate(tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cat\ndog\n cat \n", "'cat' is listed twice"),
        ("\n \n", "class names is empty"),
        ("\xff\xfe\x00", "cannot be read"),
    ],
)
def test_bad_lists_of_names_are_one_error_message(clip_folder, tmp_path, content, message):
    file = tmp_path / "names.txt"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        fit_recipe(zeroshot_recipe(file, clip_folder), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_class_names_only_allow_only_zero_shot(clip_folder, tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("cat\ndog\n")
    for tuning in ("tip", "coop", "probe", "full"):
        with pytest.raises(
            UsageError, match=f"{tuning!r} learns from images, but only class names were given"
        ):
            fit_recipe(zeroshot_recipe(file, clip_folder, tuning=tuning), tmp_path / "run")
    with pytest.raises(DataError, match="class names but no images"):
        fit_recipe(zeroshot_recipe(file, clip_folder, tuning="auto"), tmp_path / "run")
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


def test_the_classifier_equals_open_clip(shapes, clip_folder, tmp_path):
    run = fit_unevaluated(
        zeroshot_recipe(shapes, clip_folder, **{"data.val": 0.2, "data.test": 0.2}),
        tmp_path / "run",
    ).run
    model, backbone = load_predictor(run, "cpu").model, load_predictor(run, "cpu").model.backbone
    reference_model = open_clip.CustomTextCLIP(**CONFIG)
    from safetensors.torch import load_file

    reference_model.load_state_dict(load_file(clip_folder / "open_clip_model.safetensors"))
    tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=12)
    templates = [
        lambda name, template=template: template.replace("{}", name) for template in TEMPLATES
    ]
    with torch.inference_mode():
        expected = open_clip.build_zero_shot_classifier(
            reference_model.eval(), tokenizer, sorted(NAMES), templates, use_tqdm=False
        )
        torch.testing.assert_close(model.head.text, expected.T, rtol=1e-5, atol=1e-5)
        images = torch.randn(3, 3, SIDE, SIDE)
        logits = model.head(backbone(images, {Provides.POOLED}))
        reference = (
            reference_model.logit_scale.exp()
            * reference_model.encode_image(images, normalize=True)
            @ expected
        )
    torch.testing.assert_close(logits, reference, rtol=1e-4, atol=1e-4)


def test_prompts_of_a_file_are_kept_in_the_recipe(shapes, clip_folder, tmp_path):
    file = tmp_path / "prompts.yaml"
    file.write_text(
        "\n".join(f"{name.replace(' ', '_')}: [a photo of a {name}., '{name}']" for name in NAMES)
    )
    run = fit_unevaluated(
        zeroshot_recipe(shapes, clip_folder, **{"tuning.prompts": str(file)}), tmp_path / "run"
    ).run
    file.unlink()
    assert Run(run).recipe().tuning.settings["prompts"]["red_circle"] == [
        "a photo of a red circle.",
        "red circle",
    ]
    assert evaluate(run, shapes, device="cpu").numbers()["accuracy"] > 0.6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("red_circle: a\nred_circle: b\n", "'red_circle' is listed twice"),
        ("black_circle: ''\n", "'black_circle' has no prompt, or an empty one"),
        ("red_circle: a red circle\n", "has no prompt, or an empty one"),
        ("- red\n", "must map each class to one or more sentences"),
        ("a: b: c\n", "neither YAML nor JSON"),
    ],
)
def test_bad_prompt_files_are_one_error_message(shapes, clip_folder, tmp_path, content, message):
    file = tmp_path / "prompts.yaml"
    file.write_text(content)
    with pytest.raises(UsageError, match=message):
        fit_recipe(
            zeroshot_recipe(shapes, clip_folder, **{"tuning.prompts": str(file)}), tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_bad_zero_shot_options_are_one_error_message(shapes, clip_folder, tmp_path):
    with pytest.raises(UsageError, match="the prompt file does not exist"):
        fit_recipe(
            zeroshot_recipe(shapes, clip_folder, **{"tuning.prompts": "nowhere.yaml"}),
            tmp_path / "run",
        )
    with pytest.raises(UsageError, match="for the class name"):
        fit_recipe(
            zeroshot_recipe(shapes, clip_folder, **{"tuning.templates": ["a photo"]}),
            tmp_path / "run",
        )
    with pytest.raises(UnknownName, match="red_circel"):
        fit_recipe(
            zeroshot_recipe(shapes, clip_folder, **{"tuning.prompts": {"red_circel": "a"}}),
            tmp_path / "run",
        )
    settings = {
        "backbone.name": "test_vit",
        "backbone.weights": "none",
        "task": "classify",
        "tuning": "zeroshot",
    }
    with pytest.raises(UsageError, match="needs a backbone with a text encoder"):
        build_model(with_settings(Recipe(), settings), ("a", "b"))


# --- zero-shot detectors and segmenters


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = [
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
    tokenizer = Tokenizer(
        models.WordLevel(
            {token: index for index, token in enumerate(vocabulary)}, unk_token="<unk>"
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def save_network(network, folder: Path) -> Path:
    folder.mkdir()
    network.config.save_pretrained(folder)
    save_file(
        {name: value.contiguous() for name, value in network.state_dict().items()},
        folder / "model.safetensors",
    )
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def owl_folder(tmp_path_factory) -> Path:
    from transformers import Owlv2Config, Owlv2ForObjectDetection

    torch.manual_seed(0)
    return save_network(
        Owlv2ForObjectDetection(
            Owlv2Config(text_config=TEXT, vision_config=VISION, projection_dim=16)
        ),
        tmp_path_factory.mktemp("hf") / "owl",
    )


@pytest.fixture(scope="session")
def clipseg_folder(tmp_path_factory) -> Path:
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    torch.manual_seed(0)
    options = {
        "extract_layers": [0, 1],
        "reduce_dim": 8,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 16,
    }
    config = CLIPSegConfig(text_config=TEXT, vision_config=VISION, projection_dim=16, **options)
    return save_network(
        CLIPSegForImageSegmentation(config), tmp_path_factory.mktemp("hf") / "clipseg"
    )


def native_recipe(folder: Path, task: str) -> Recipe:
    settings = {
        "backbone.name": f"hf:{folder}",
        "task": {"name": task, "head": "native"},
        "tuning": {"name": "zeroshot", "templates": ["a {}"]},
    }
    return with_settings(Recipe(), settings)


def test_owlv2_equals_transformers(owl_folder):
    """Boxes and logits equal those of transformers, post-processed by its own image processor."""
    from transformers.models.owlv2.image_processing_owlv2 import Owlv2ImageProcessor

    model = build_model(native_recipe(owl_folder, "detect"), ("red circle", "blue circle"))
    images = torch.randn(2, 3, SIDE, SIDE)
    backbone = model.backbone
    ids = backbone._tokenize(["a red circle", "a blue circle"])
    with torch.inference_mode():
        boxes, logits = backbone(images, {Provides.NATIVE}).native
        inputs = {name: ids[name].repeat(2, 1) for name in ("input_ids", "attention_mask")}
        reference = backbone.network(pixel_values=images, **inputs)
    torch.testing.assert_close(logits, reference.logits, rtol=1e-4, atol=1e-4)
    expected = Owlv2ImageProcessor().post_process_object_detection(
        reference, threshold=0.01, target_sizes=[(SIDE, SIDE)] * 2
    )
    candidates = model.task.detector.candidates(model.head.network((boxes, logits), (SIDE, SIDE)))
    for predicted, target in zip(candidates, expected, strict=True):
        order = target["scores"].argsort(descending=True, stable=True)
        torch.testing.assert_close(predicted.scores, target["scores"][order], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(predicted.boxes, target["boxes"][order], rtol=1e-3, atol=1e-3)
        assert predicted.classes.tolist() == target["labels"][order].tolist()


def test_clipseg_equals_transformers(clipseg_folder):
    model = build_model(native_recipe(clipseg_folder, "segment"), ("red circle", "background"))
    images, backbone = torch.randn(2, 3, SIDE, SIDE), model.backbone
    with torch.inference_mode():
        masks = backbone(images, {Provides.NATIVE}).native
        for index, prompt in enumerate(("a red circle", "a background")):
            ids = backbone._tokenize([prompt])
            inputs = {name: ids[name].repeat(2, 1) for name in ("input_ids", "attention_mask")}
            reference = backbone.network(pixel_values=images, **inputs).logits
            torch.testing.assert_close(masks[:, index], reference, rtol=1e-4, atol=1e-4)


def test_zero_shot_detectors_are_not_trained(owl_folder):
    model = build_model(
        with_settings(native_recipe(owl_folder, "detect"), {"tuning": "full"}),
        ("red circle", "blue circle"),
    )
    with pytest.raises(UsageError, match="cannot be trained"):
        model.task.detector.loss(None, [])


def test_folders_of_other_networks_are_refused(tmp_path, owl_folder):
    with pytest.raises(UsageError, match=r"no config.json"):
        build_model(native_recipe(tmp_path, "detect"), ("a",))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UsageError, match="do not predict classes given as text"):
        build_model(native_recipe(tmp_path, "detect"), ("a",))
    with pytest.raises(UsageError, match="a multiple of 8 px"):
        build_model(
            with_settings(native_recipe(owl_folder, "detect"), {"backbone.size": 36}), ("a",)
        )


def test_queries_can_be_sentences(shapes, clip_folder, tmp_path):
    """A text about the class of an image scores higher than one about another class."""
    run = fit_unevaluated(zeroshot_recipe(shapes, clip_folder), tmp_path / "run").run
    class_folder, other_folder = (
        sorted(folder for folder in shapes.iterdir() if folder.is_dir())[index] for index in (0, 1)
    )
    images = sorted(class_folder.iterdir())[:4]
    texts = [
        f"a photo of a {folder.name.replace('_', ' ')}." for folder in (class_folder, other_folder)
    ]
    explanations = foveate.explain(
        run, images, methods=["occlusion"], texts=texts, out=tmp_path / "why", device="cpu"
    ).explanations
    assert [explanation.label for explanation in explanations] == texts * 4
    matching, other = (
        np.mean(
            [explanation.probability for explanation in explanations if explanation.label == text]
        )
        for text in texts
    )
    assert matching > other
    assert all(
        float(explanation.map.max()) > float(explanation.map.min()) for explanation in explanations
    )
