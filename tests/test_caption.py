"""Captioning: metrics equal their definitions, tables of captions, decoders and their search."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.text import BLEUScore, CHRFScore

import foveate
from conftest import caption_recipe
from foveate.api.fit.core import fit_recipe
from foveate.cli import main as cli
from foveate.data.formats import read_table
from foveate.errors import DataError, FoveateError, UsageError, WeightsError
from foveate.evaluation.metrics import METRICS
from foveate.evaluation.metrics.text import TextMetric, cider_scores, rouge_l, tokenize
from foveate.inference.predictor import load_predictor
from foveate.modeling.model import build_model
from foveate.modeling.tokenizer import WordTokenizer
from foveate.modeling.weights import weights_fingerprint
from foveate.predictions import Text
from foveate.recipe import Recipe, with_settings
from helpers import fit_unevaluated, without_evaluation


def compute_scores(predictions, targets):
    metric = TextMetric()
    for prediction, target in zip(predictions, targets, strict=True):
        metric.update(Text((prediction,)), Text(tuple(target)))
    return metric.compute().numbers


@pytest.fixture(scope="module")
def captions():
    """Predicted captions that overlap more or less with one to three references."""
    rng = np.random.default_rng(0)
    vocabulary = [
        "the",
        "a",
        "red",
        "blue",
        "box",
        "circle",
        "is",
        "near",
        "there",
        "two",
        "on",
        "touching",
    ]
    texts = [
        [" ".join(rng.choice(vocabulary, rng.integers(3, 10))) for _ in range(rng.integers(2, 5))]
        for _ in range(30)
    ]
    return [
        alternatives[0][:-4] + " box" if index % 2 else alternatives[0]
        for index, alternatives in enumerate(texts)
    ], [
        alternatives[1:] + alternatives[:1] * (index % 2)
        for index, alternatives in enumerate(texts)
    ]


# --- metrics


def test_cider_by_hand():
    """Two images, "a red box" and "a blue box": common n-grams have weight 0, all others ln 2."""
    targets = [[["a", "red", "box"]], [["a", "blue", "box"]]]
    assert cider_scores([["a", "red", "box"], ["a", "red", "box"]], targets) == pytest.approx(
        [7.5, 0.0]
    )  # there are no 4-grams
    gauss = math.exp(-1 / 72)  # one word too few, sigma 6
    assert cider_scores([["red", "box"], []], targets) == pytest.approx(
        [10 * (1 + math.sqrt(0.5)) / 4 * gauss, 0.0]
    )
    repeated = cider_scores([["red"] * 3, ["a"]], targets)[0]  # counted once: the D of CIDEr-D
    assert repeated == pytest.approx(10 * (3 * 1 / (3 * 1)) / 4 / 3 * 1)


def test_bleu_and_chrf_equal_torchmetrics(captions):
    predictions, targets = captions
    scores = compute_scores(predictions, targets)
    shorter_first = [
        sorted(references, key=lambda sentence: len(sentence.split())) for references in targets
    ]  # of two equally near lengths, the shorter counts
    for n in range(1, 5):
        assert scores[f"bleu_{n}"].value == pytest.approx(
            float(BLEUScore(n_gram=n)(predictions, shorter_first)), abs=1e-6
        )
    assert scores["chrf"].value == pytest.approx(
        float(CHRFScore(n_word_order=0)(predictions, targets)), abs=1e-6
    )
    for score in scores.values():
        assert score.low <= score.value <= score.high
        assert score.count == 30


def test_rouge_is_the_longest_common_subsequence():
    assert rouge_l(["the", "cat", "sat"], [["the", "cat", "sat"]]) == 1
    precision, recall = 2 / 3, 2 / 4  # "the ... sat"
    expected = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert rouge_l(["the", "dog", "sat"], [["the", "cat", "it", "sat"]]) == pytest.approx(expected)
    assert rouge_l([], [["a"]]) == rouge_l(["b"], [["a"]]) == 0


def test_case_and_punctuation_are_ignored():
    assert tokenize("It's TWO boxes, not 3!") == ["it's", "two", "boxes", "not", "3"]
    assert compute_scores(["A red box."], [["a Red box"]])["bleu_1"].value == 1


def test_a_resample_is_scored_as_a_data_set_of_its_own(captions):
    """The main metric of a resample is that of its images; CIDEr's weights do not change."""
    predictions, targets = captions
    metric = TextMetric()
    for prediction, target in zip(predictions, targets, strict=True):
        metric.update(Text((prediction,)), Text(tuple(target)))
    scores = cider_scores(
        [tokenize(prediction) for prediction in predictions],
        [[tokenize(reference) for reference in target] for target in targets],
    )
    indices = np.array([0, 0, 7, 20])
    assert metric.resampler()(indices) == pytest.approx(scores[indices].mean())
    assert metric.sample_loss(Text((targets[0][0],)), Text(tuple(targets[0]))) == 0
    assert METRICS.get("text").reads is Text
    with pytest.raises(DataError, match="nothing to score"):
        TextMetric().compute()


# --- tables


def write_images(folder: Path, names) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (40, 30)).save(folder / name)


def test_tables_of_captions(tmp_path):
    write_images(tmp_path, ["a.png", "b.png"])
    rows = [
        {"file": "a.png", "texts": ["One  box.", "A box."], "split": "train"},
        {"file": "b.png", "texts": "Two boxes."},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "t.csv").write_text(
        "image,caption\na.png,One box.\na.png,A box.\nb.png,Two boxes.\n", encoding="utf-8"
    )
    for name in ("t.jsonl", "t.csv"):
        table = read_table(tmp_path / name)
        assert table.format == "captions"
        assert [sample.target.sentences for sample in table.samples] == [
            ("One box.", "A box."),
            ("Two boxes.",),
        ]
    assert [sample.split for sample in read_table(tmp_path / "t.jsonl").samples] == ["train", None]
    (tmp_path / "labels.csv").write_text("image,label\na.png,x\nb.png,y\n", encoding="utf-8")
    assert read_table(tmp_path / "labels.csv").format == "table"
    (tmp_path / "both.csv").write_text(
        "image,label,text\na.png,x,One.\nb.png,y,Two.\n", encoding="utf-8"
    )
    with pytest.raises(DataError, match="in several ways"):
        read_table(tmp_path / "both.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"path": "a.png", "text": ""}', "the caption is empty"),
        ('{"path": "a.png", "text": []}', "neither a text nor a list"),
        ('{"path": "a.png", "text": 3}', "neither a text nor a list"),
        ('{"path": "no.png", "text": "A box."}', "images of the table do not exist"),
        ('{"path": "a.png", "text": "A.", "split": "train"}\n{"path": "a.png", "text": "B.", "split": "test"}', "different splits"),
        ('{"path": "a.png", "text": "caf\xe9"}'.encode("latin-1"), "cannot be read"),
    ],
)  # fmt: skip
def test_bad_tables_are_one_error_message(tmp_path, content, message):
    write_images(tmp_path, ["a.png"])
    (tmp_path / "t.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "t.jsonl", "captions")


def test_coco_captions(tmp_path):
    write_images(tmp_path / "train2017", ["1.png", "2.png"])
    content = {
        "images": [
            {"id": 1, "file_name": "1.png"},
            {"id": 2, "file_name": "2.png"},
            {"id": 3, "file_name": "gone.png"},
        ],
        "annotations": [
            {"id": n, "image_id": image, "caption": text}
            for n, (image, text) in enumerate([(1, "A."), (1, "B."), (2, "C."), (3, "D.")])
        ],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    table = read_table(tmp_path)
    assert table.format == "coco_captions"
    assert [(sample.key, sample.target.sentences, sample.split) for sample in table.samples] == [
        ("train2017/1.png", ("A.", "B."), "train"),
        ("train2017/2.png", ("C.",), "train"),
    ]
    assert "1 of 3 images" in str(table.notes[0])
    content["annotations"][0]["caption"] = " "
    (tmp_path / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="the caption is empty"):
        read_table(tmp_path)


# --- vocabulary


def test_the_vocabulary_round_trips():
    tokenizer = WordTokenizer(
        WordTokenizer.build_vocabulary(["There is a box, (a RED one)!", "It's two boxes."])
    )
    assert (
        tokenizer.decode(tokenizer.encode("There is a box, (a red one)!"))
        == "there is a box, (a red one)!"
    )
    assert tokenizer.decode(tokenizer.encode("it's a zebra")) == "it's a …"
    assert tokenizer.encode("a")[0] == 3  # the most frequent one comes first
    assert tokenizer.size == 3 + len(
        {"there", "is", "a", "box", ",", "(", "red", "one", ")", "!", "it's", "two", "boxes", "."}
    )


# --- the task


def test_captions_of_new_images_are_correct(caption_run):
    folder = caption_run / "evaluations" / "test"
    cider = json.loads((folder / "scores.json").read_text())["numbers"]["cider"]["value"]
    assert cider > 4
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    correct = sum(
        all(
            word in row["prediction"]
            for word in (row["path"].split("-")[0], "upright" if "True" in row["path"] else "lying")
        )
        for row in rows
    )
    assert correct / len(rows) > 0.7
    metric = TextMetric()
    for row in rows:
        assert 0 <= row["confidence"] <= 1
        metric.update(Text((row["prediction"],)), Text(tuple(row["target"])))
    assert metric.compute().numbers["cider"].value == pytest.approx(cider, abs=1e-9)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Best predictions" in page
    assert "CIDEr" in page


def test_predictions_carry_attention_maps(caption_run, captioned_stripes):
    image = next(captioned_stripes.parent.glob("*.png"))
    result = next(iter(foveate.predict(caption_run, [image], device="cpu")))
    text = result.prediction
    assert text.attention_maps.shape[0] == len(text.tokens)
    assert text.attention_maps.shape[1] == text.attention_maps.shape[2]  # a square image
    assert np.isfinite(text.attention_maps).all()
    assert result.row()["prediction"] == text.sentences[0]
    assert "looks" not in result.row()


@torch.inference_mode()
def test_greedy_search_with_a_cache_equals_the_search_without(caption_run):
    """Generate word by word, without a cache: the whole caption is processed each time."""
    model = load_predictor(caption_run, "cpu").model
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    decoder, tokenizer = model.head, model.task.tokenizer
    features = model.backbone(images, model.task.needs)
    memory = decoder(features, type("Batch", (), {"targets": [{}]})()).memory
    generated, confidences = decoder.generate(memory, 12, 1)
    for index in range(3):
        embeddings, token_ids, log_probabilities = (
            decoder._context(memory[index : index + 1]),
            [],
            [],
        )
        for _ in range(12):
            probabilities = decoder.language_model(inputs_embeds=embeddings).logits[0, -1]
            probabilities[tokenizer.suppressed] = -math.inf
            probabilities = probabilities.softmax(-1)
            token_ids.append(int(probabilities.argmax()))
            log_probabilities.append(math.log(float(probabilities.max())))
            if token_ids[-1] == tokenizer.end:
                break
            embeddings = torch.cat(
                [
                    embeddings,
                    decoder.language_model.get_input_embeddings()(torch.tensor([[token_ids[-1]]])),
                ],
                1,
            )
        assert generated[index] == [token_id for token_id in token_ids if token_id != tokenizer.end]
        assert confidences[index] == pytest.approx(math.exp(np.mean(log_probabilities)), rel=1e-3)


def test_more_beams_never_lower_the_score(caption_run):
    model = load_predictor(caption_run, "cpu").model
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        memory = model.head(
            model.backbone(images, model.task.needs), type("Batch", (), {"targets": [{}]})()
        ).memory
        greedy, beam_search = (model.head.generate(memory, 12, beams)[1] for beams in (1, 8))
    assert np.mean(beam_search) >= np.mean(greedy) - 1e-3


# --- pretrained decoders, prefixes, prompts


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> Path:
    """A tiny language model in a folder, as the transformers library saves one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("language")
    vocabulary = [
        "<end>",
        "<unknown>",
        *[
            "upright",
            "lying",
            "stripes",
            "in",
            "red",
            "green",
            "blue",
            "these",
            "are",
            "and",
            ".",
            "a",
            "photo",
            "of",
        ],
    ]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(vocabulary)}, "<unknown>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unknown>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(vocabulary),
            n_positions=128,
            n_embd=32,
            n_layer=2,
            n_head=2,
            eos_token_id=0,
            bos_token_id=0,
        )
    ).save_pretrained(folder)
    return folder


def test_a_frozen_language_model_does_not_change(language_model, captioned_stripes, tmp_path):
    task = {
        "name": "caption",
        "decoder": f"hf:{language_model}",
        "freeze_decoder": True,
        "prefix_tokens": 3,
        "prompt": "a photo of",
        "max_words": 12,
        "beams": 1,
    }
    recipe = caption_recipe(captioned_stripes, **{"task": task, "training.epochs": 2})
    before = weights_fingerprint(build_model(recipe, ()).head.language_model.state_dict())
    result = fit_unevaluated(recipe, tmp_path / "run")
    model = load_predictor(result.run, "cpu").model
    assert weights_fingerprint(model.head.language_model.state_dict()) == before
    assert model.head.prefix.shape == (3, 32)
    assert not torch.equal(model.head.prefix, build_model(recipe, ()).head.prefix)
    assert model.head.prompt_ids == [0, *model.task.tokenizer.encode("a photo of")]
    assert all(
        not result_of_image.row()["prediction"].startswith("a photo of")
        for result_of_image in foveate.predict(result.run, captioned_stripes.parent, device="cpu")
    )


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"task.max_words": 3}, DataError, "the limit is 3"),
        ({"task.width": 100}, UsageError, "not a multiple of 64"),
        ({"task.decoder": "hf:/nowhere/at/all"}, WeightsError, "language model cannot be loaded"),
    ],
)
def test_bad_options_are_one_error_message(captioned_stripes, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        fit_recipe(caption_recipe(captioned_stripes, **settings), tmp_path / "run")


def test_a_decoder_without_a_vocabulary_explains_how_to_get_one():
    with pytest.raises(FoveateError, match="vocabulary of the decoder is empty"):
        build_model(
            with_settings(
                Recipe(),
                {
                    "backbone.name": "test_resnet",
                    "backbone.weights": "none",
                    "task": "caption",
                    "tuning": "head",
                },
            ),
            (),
        )


def test_captioning_from_data_to_predictions_on_the_command_line(
    captioned_stripes, tmp_path, capsys
):
    network = [
        "--backbone",
        "test_resnet",
        "--weights",
        "none",
        "--size",
        "64",
        "--tuning",
        "full",
        "--device",
        "cpu",
    ]
    small_task = ["--set", "task.width=64", "--set", "task.depth=1", "--epochs", "1"]
    assert (
        cli._run(
            ["fit", str(captioned_stripes), *network, *small_task, "--out", str(tmp_path / "run")]
        )
        == 0
    )
    output = capsys.readouterr().out
    assert "84 images, 168 captions" in output
    assert "words and punctuation marks of the training captions" in output
    image = str(next(captioned_stripes.parent.glob("*.png")))
    assert cli._run(["predict", str(tmp_path / "run"), image, "--device", "cpu"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out.splitlines()[-1])["prediction"], str)


# --- a backbone with its own text decoder


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> Path:
    """A tiny BLIP with random weights, whose vocabulary is that of the captions."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration

    root = tmp_path_factory.mktemp("blip") / "tiny"
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[DEC]",
        "upright",
        "lying",
        "stripes",
        "in",
        "red",
        "green",
        "blue",
        "these",
        "are",
        "and",
        ".",
    ]
    root.mkdir()
    (root / "vocab.txt").write_text("\n".join(vocabulary))
    size = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {
        **size,
        "vocab_size": len(vocabulary),
        "encoder_hidden_size": 32,
        "max_position_embeddings": 32,
        "bos_token_id": 4,
        "sep_token_id": 3,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BlipConfig(
            vision_config={**size, "image_size": 32, "patch_size": 8}, text_config=text
        )
        BlipForConditionalGeneration(config).save_pretrained(root)
    BertTokenizer(str(root / "vocab.txt")).save_pretrained(root)
    return root


def test_blip_captions_equal_those_of_transformers(blip):
    from transformers import BlipForConditionalGeneration

    settings = {
        "backbone": {"name": f"blip:{blip}"},
        "task": {"name": "caption", "decoder": "native", "beams": 1, "max_words": 8},
        "tuning": "full",
    }
    model = build_model(with_settings(Recipe(), settings), ()).eval()
    reference = BlipForConditionalGeneration.from_pretrained(blip).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        memory = model.backbone(images, model.task.needs).native
        generated, confidences = model.head.generate(memory, 8, 1)
        expected = reference.generate(
            pixel_values=images, max_new_tokens=8, num_beams=1, do_sample=False
        )
        expected_ids = [row[1:].tolist() for row in expected]
    for ids, others in zip(generated, expected_ids, strict=True):
        assert ids[: len(others)] == [n for n in others if n not in (0, 3)][: len(ids)]
    assert all(0 < value <= 1 for value in confidences)


def test_lora_fine_tunes_blip_and_saves_only_the_adapter(blip, captioned_stripes, tmp_path):
    settings = {
        "task.decoder": "native",
        "task.beams": 2,
        "tuning.rank": 16,
        "training.ema": 0,
        "data.near_duplicates": 1,
    }
    options = {
        "task": "caption",
        "backbone": f"blip:{blip}",
        "tuning": "lora",
        "device": "cpu",
        "epochs": 10,
        "lr": 1e-2,
    }
    with without_evaluation():
        result = foveate.fit(captioned_stripes, out=tmp_path / "run", settings=settings, **options)
    from foveate.modeling.weights import read_tensors

    names = read_tensors(result.run / "model.safetensors")
    assert names
    assert all("lora_" in name for name in names)
    assert any("vision_model" in name for name in names)
    assert any("crossattention" in name for name in names)
    rows = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["train_loss"] < 0.7 * rows[0]["train_loss"]
    prediction = next(
        iter(
            foveate.predict(
                result.run, [next(captioned_stripes.parent.rglob("*.png"))], device="cpu"
            )
        )
    ).prediction
    assert prediction.sentences[0]
    assert prediction.attention_maps.shape[0] == len(prediction.tokens)
    assert load_predictor(result.run).model.head.__class__.__name__ == "NativeCaptionDecoder"


def test_backbones_without_a_text_decoder_are_refused(captioned_stripes, blip, tmp_path):
    with pytest.raises(UsageError, match="needs text_decoder"):
        fit_recipe(
            with_settings(
                Recipe(),
                {
                    "data.path": str(captioned_stripes),
                    "task": {"name": "caption", "decoder": "native"},
                    "backbone.name": "test_efficientnet",
                    "backbone.weights": "none",
                },
            ),
            tmp_path / "run",
        )
    with pytest.raises(WeightsError, match="cannot be loaded"):
        foveate.fit(
            captioned_stripes, task="caption", backbone=f"blip:{tmp_path}", out=tmp_path / "run"
        )
    with pytest.raises(UsageError, match="a multiple of 8 px"):
        foveate.fit(
            captioned_stripes,
            task="caption",
            backbone=f"blip:{blip}",
            size=36,
            out=tmp_path / "run",
        )
