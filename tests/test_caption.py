"""Sentences: metrics against their definitions, tables of sentences, a decoder that learns and whose search is what it should be."""

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
from conftest import words_for
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
from helpers import evaluation_left_out, fit_unevaluated


def scores(answers, truths):
    metric = TextMetric()
    for answer, truth in zip(answers, truths, strict=True):
        metric.update(Text((answer,)), Text(tuple(truth)))
    return metric.compute().numbers


@pytest.fixture(scope="module")
def sentences():
    """Answers that share more or less with one to three references."""
    rng = np.random.default_rng(0)
    words = [
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
    made = [
        [" ".join(rng.choice(words, rng.integers(3, 10))) for _ in range(rng.integers(2, 5))]
        for _ in range(30)
    ]
    return [each[0][:-4] + " box" if place % 2 else each[0] for place, each in enumerate(made)], [
        each[1:] + each[:1] * (place % 2) for place, each in enumerate(made)
    ]


# --- metrics


def test_cider_by_hand():
    """Two images, "a red box" and "a blue box": what both have weighs nothing, all else ln 2."""
    truths = [[["a", "red", "box"]], [["a", "blue", "box"]]]
    assert cider_scores([["a", "red", "box"], ["a", "red", "box"]], truths) == pytest.approx(
        [7.5, 0.0]
    )  # there are no runs of four words
    gauss = math.exp(-1 / 72)  # a word too few, sigma 6
    assert cider_scores([["red", "box"], []], truths) == pytest.approx(
        [10 * (1 + math.sqrt(0.5)) / 4 * gauss, 0.0]
    )
    repeated = cider_scores([["red"] * 3, ["a"]], truths)[
        0
    ]  # counted once: that is what the D stands for
    assert repeated == pytest.approx(10 * (3 * 1 / (3 * 1)) / 4 / 3 * 1)


def test_bleu_and_chrf_are_those_of_torchmetrics(sentences):
    answers, truths = sentences
    found = scores(answers, truths)
    shorter_first = [
        sorted(each, key=lambda sentence: len(sentence.split())) for each in truths
    ]  # of two lengths that are as near, the shorter
    for n in range(1, 5):
        assert found[f"bleu_{n}"].value == pytest.approx(
            float(BLEUScore(n_gram=n)(answers, shorter_first)), abs=1e-6
        )
    assert found["chrf"].value == pytest.approx(
        float(CHRFScore(n_word_order=0)(answers, truths)), abs=1e-6
    )
    for score in found.values():
        assert score.low <= score.value <= score.high
        assert score.count == 30


def test_rouge_is_the_longest_common_subsequence():
    assert rouge_l(["the", "cat", "sat"], [["the", "cat", "sat"]]) == 1
    precision, recall = 2 / 3, 2 / 4  # "the ... sat"
    expected = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert rouge_l(["the", "dog", "sat"], [["the", "cat", "it", "sat"]]) == pytest.approx(expected)
    assert rouge_l([], [["a"]]) == rouge_l(["b"], [["a"]]) == 0


def test_case_and_punctuation_count_nothing():
    assert tokenize("It's TWO boxes, not 3!") == ["it's", "two", "boxes", "not", "3"]
    assert scores(["A red box."], [["a Red box"]])["bleu_1"].value == 1


def test_a_resample_is_a_set_of_its_own(sentences):
    """The main number of a resample is that of these images; CIDEr's weights stay."""
    answers, truths = sentences
    metric = TextMetric()
    for answer, truth in zip(answers, truths, strict=True):
        metric.update(Text((answer,)), Text(tuple(truth)))
    each = cider_scores(
        [tokenize(answer) for answer in answers],
        [[tokenize(one) for one in truth] for truth in truths],
    )
    places = np.array([0, 0, 7, 20])
    assert metric.resampler()(places) == pytest.approx(each[places].mean())
    assert metric.sample_loss(Text((truths[0][0],)), Text(tuple(truths[0]))) == 0
    assert METRICS.get("text").reads is Text
    with pytest.raises(DataError, match="nothing to score"):
        TextMetric().compute()


# --- tables


def pictures(folder: Path, names) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (40, 30)).save(folder / name)


def test_tables_of_sentences(tmp_path):
    pictures(tmp_path, ["a.png", "b.png"])
    lines = [
        {"file": "a.png", "texts": ["One  box.", "A box."], "split": "train"},
        {"file": "b.png", "texts": "Two boxes."},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
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
    with pytest.raises(DataError, match="several formats fit"):
        read_table(tmp_path / "both.csv")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"path": "a.png", "text": ""}', "the caption is empty"),
        ('{"path": "a.png", "text": []}', "neither a text nor a list"),
        ('{"path": "a.png", "text": 3}', "neither a text nor a list"),
        ('{"path": "no.png", "text": "A box."}', "images of the table do not exist"),
        ('{"path": "a.png", "text": "A.", "split": "train"}\n{"path": "a.png", "text": "B.", "split": "test"}', "different splits"),
        ('{"path": "a.png", "text": "caf\xe9"}'.encode("latin-1"), "cannot be read"),
    ],
)  # fmt: skip
def test_bad_tables_are_one_sentence(tmp_path, content, words):
    pictures(tmp_path, ["a.png"])
    (tmp_path / "t.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=words):
        read_table(tmp_path / "t.jsonl", "captions")


def test_coco_captions(tmp_path):
    pictures(tmp_path / "train2017", ["1.png", "2.png"])
    content = {
        "images": [
            {"id": 1, "file_name": "1.png"},
            {"id": 2, "file_name": "2.png"},
            {"id": 3, "file_name": "gone.png"},
        ],
        "annotations": [
            {"id": n, "image_id": place, "caption": text}
            for n, (place, text) in enumerate([(1, "A."), (1, "B."), (2, "C."), (3, "D.")])
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


# --- words


def test_words_come_back():
    words = WordTokenizer(
        WordTokenizer.build_vocabulary(["There is a box, (a RED one)!", "It's two boxes."])
    )
    assert (
        words.decode(words.encode("There is a box, (a red one)!")) == "there is a box, (a red one)!"
    )
    assert words.decode(words.encode("it's a zebra")) == "it's a …"
    assert words.encode("a")[0] == 3  # the most frequent one comes first
    assert words.size == 3 + len(
        {"there", "is", "a", "box", ",", "(", "red", "one", ")", "!", "it's", "two", "boxes", "."}
    )


# --- the task


def test_sentences_about_new_pictures_are_true(captioner):
    folder = captioner / "evaluations" / "test"
    cider = json.loads((folder / "scores.json").read_text())["numbers"]["cider"]["value"]
    assert cider > 4
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    right = sum(
        all(
            word in row["answer"]
            for word in (row["path"].split("-")[0], "upright" if "True" in row["path"] else "lying")
        )
        for row in answers
    )
    assert right / len(answers) > 0.7
    metric = TextMetric()
    for row in answers:
        assert 0 <= row["confidence"] <= 1
        metric.update(Text((row["answer"],)), Text(tuple(row["truth"])))
    assert metric.compute().numbers["cider"].value == pytest.approx(cider, abs=1e-9)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Best predictions" in page
    assert "CIDEr" in page


def test_predictions_carry_where_was_looked(captioner, striped_world):
    picture = next(striped_world.parent.glob("*.png"))
    answer = next(iter(foveate.predict(captioner, [picture], device="cpu")))
    text = answer.prediction
    assert text.attention_maps.shape[0] == len(text.tokens)
    assert text.attention_maps.shape[1] == text.attention_maps.shape[2]  # a square picture
    assert np.isfinite(text.attention_maps).all()
    assert answer.row()["answer"] == text.sentences[0]
    assert "looks" not in answer.row()


@torch.inference_mode()
def test_greedy_search_with_a_cache_is_the_search_without(captioner):
    """Word after word, the whole sentence read anew each time."""
    model = load_predictor(captioner, "cpu").model
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    writer, words = model.head, model.task.tokenizer
    features = model.backbone(images, model.task.needs)
    memory = writer(features, type("Batch", (), {"targets": [{}]})()).memory
    written, sure = writer.generate(memory, 12, 1)
    for place in range(3):
        seen, numbers, chances = writer._context(memory[place : place + 1]), [], []
        for _ in range(12):
            chance = writer.language_model(inputs_embeds=seen).logits[0, -1]
            chance[words.suppressed] = -math.inf
            chance = chance.softmax(-1)
            numbers.append(int(chance.argmax()))
            chances.append(math.log(float(chance.max())))
            if numbers[-1] == words.end:
                break
            seen = torch.cat(
                [seen, writer.language_model.get_input_embeddings()(torch.tensor([[numbers[-1]]]))],
                1,
            )
        assert written[place] == [number for number in numbers if number != words.end]
        assert sure[place] == pytest.approx(math.exp(np.mean(chances)), rel=1e-3)


def test_more_beams_are_never_less_sure(captioner):
    model = load_predictor(captioner, "cpu").model
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        memory = model.head(
            model.backbone(images, model.task.needs), type("Batch", (), {"targets": [{}]})()
        ).memory
        one, many = (model.head.generate(memory, 12, beams)[1] for beams in (1, 8))
    assert np.mean(many) >= np.mean(one) - 1e-3


# --- pretrained decoders, prefixes, prompts


@pytest.fixture(scope="module")
def language(tmp_path_factory) -> Path:
    """A tiny language model in a folder, as the transformers library saves one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("language")
    words = [
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
        models.WordLevel({word: number for number, word in enumerate(words)}, "<unknown>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unknown>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(words),
            n_positions=128,
            n_embd=32,
            n_layer=2,
            n_head=2,
            eos_token_id=0,
            bos_token_id=0,
        )
    ).save_pretrained(folder)
    return folder


def test_a_frozen_language_model_stays_as_it_is(language, striped_world, tmp_path):
    task = {
        "name": "caption",
        "decoder": f"hf:{language}",
        "freeze_decoder": True,
        "prefix_tokens": 3,
        "prompt": "a photo of",
        "max_words": 12,
        "beams": 1,
    }
    recipe = words_for(striped_world, **{"task": task, "training.epochs": 2})
    before = weights_fingerprint(build_model(recipe, ()).head.language_model.state_dict())
    result = fit_unevaluated(recipe, tmp_path / "run")
    model = load_predictor(result.run, "cpu").model
    assert weights_fingerprint(model.head.language_model.state_dict()) == before
    assert model.head.prefix.shape == (3, 32)
    assert not torch.equal(model.head.prefix, build_model(recipe, ()).head.prefix)
    assert model.head.prompt_ids == [0, *model.task.tokenizer.encode("a photo of")]
    assert all(
        not answer.row()["answer"].startswith("a photo of")
        for answer in foveate.predict(result.run, striped_world.parent, device="cpu")
    )


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"task.max_words": 3}, DataError, "the limit is 3"),
        ({"task.width": 100}, UsageError, "not a multiple of 64"),
        ({"task.decoder": "hf:/nowhere/at/all"}, WeightsError, "language model cannot be loaded"),
    ],
)
def test_wrong_words_are_one_sentence(striped_world, tmp_path, settings, error, words):
    with pytest.raises(error, match=words):
        fit_recipe(words_for(striped_world, **settings), tmp_path / "run")


def test_a_decoder_without_words_says_where_they_come_from():
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


def test_from_words_to_answers_on_the_command_line(striped_world, tmp_path, capsys):
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
    small = ["--set", "task.width=64", "--set", "task.depth=1", "--epochs", "1"]
    assert (
        cli._run(["fit", str(striped_world), *network, *small, "--out", str(tmp_path / "run")]) == 0
    )
    said = capsys.readouterr().out
    assert "84 images, 168 captions" in said
    assert "words and punctuation marks of the training captions" in said
    picture = str(next(striped_world.parent.glob("*.png")))
    assert cli._run(["predict", str(tmp_path / "run"), picture, "--device", "cpu"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out.splitlines()[-1])["answer"], str)


# --- a backbone that writes by itself


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> Path:
    """BLIP's parts, tiny and with random weights; its words are those of the scenes."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration

    root = tmp_path_factory.mktemp("blip") / "tiny"
    words = [
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
    (root / "vocab.txt").write_text("\n".join(words))
    size = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {
        **size,
        "vocab_size": len(words),
        "encoder_hidden_size": 32,
        "max_position_embeddings": 32,
        "bos_token_id": 4,
        "sep_token_id": 3,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plan = BlipConfig(
            vision_config={**size, "image_size": 32, "patch_size": 8}, text_config=text
        )
        BlipForConditionalGeneration(plan).save_pretrained(root)
    BertTokenizer(str(root / "vocab.txt")).save_pretrained(root)
    return root


def test_blip_writes_what_the_library_writes(blip):
    from transformers import BlipForConditionalGeneration

    settings = {
        "backbone": {"name": f"blip:{blip}"},
        "task": {"name": "caption", "decoder": "native", "beams": 1, "max_words": 8},
        "tuning": "full",
    }
    model = build_model(with_settings(Recipe(), settings), ()).eval()
    theirs = BlipForConditionalGeneration.from_pretrained(blip).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        memory = model.backbone(images, model.task.needs).native
        mine, sure = model.head.generate(memory, 8, 1)
        found = theirs.generate(pixel_values=images, max_new_tokens=8, num_beams=1, do_sample=False)
        ends = [row[1:].tolist() for row in found]
    assert [numbers[: len(end)] for numbers, end in zip(mine, ends, strict=True)] == [
        [n for n in end if n not in (0, 3)][: len(numbers)]
        for numbers, end in zip(mine, ends, strict=True)
    ]
    assert all(0 < value <= 1 for value in sure)


def test_lora_teaches_blip_and_saves_the_adapter_alone(blip, striped_world, tmp_path):
    settings = {
        "task.decoder": "native",
        "task.beams": 2,
        "tuning.rank": 16,
        "training.ema": 0,
        "data.near_duplicates": 1,
    }
    words = {
        "task": "caption",
        "backbone": f"blip:{blip}",
        "tuning": "lora",
        "device": "cpu",
        "epochs": 10,
        "lr": 1e-2,
    }
    with evaluation_left_out():
        found = foveate.fit(striped_world, out=tmp_path / "run", settings=settings, **words)
    from foveate.modeling.weights import read_tensors

    names = read_tensors(found.run / "model.safetensors")
    assert names
    assert all("lora_" in name for name in names)
    assert any("vision_model" in name for name in names)
    assert any("crossattention" in name for name in names)
    rows = [json.loads(line) for line in (found.run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["train_loss"] < 0.7 * rows[0]["train_loss"]
    answer = next(
        iter(foveate.predict(found.run, [next(striped_world.parent.rglob("*.png"))], device="cpu"))
    ).prediction
    assert answer.sentences[0]
    assert answer.attention_maps.shape[0] == len(answer.tokens)
    assert load_predictor(found.run).model.head.__class__.__name__ == "NativeCaptionDecoder"


def test_who_cannot_write_is_told_so(striped_world, blip, tmp_path):
    with pytest.raises(UsageError, match="needs words"):
        fit_recipe(
            with_settings(
                Recipe(),
                {
                    "data.path": str(striped_world),
                    "task": {"name": "caption", "decoder": "native"},
                    "backbone.name": "test_efficientnet",
                    "backbone.weights": "none",
                },
            ),
            tmp_path / "run",
        )
    with pytest.raises(WeightsError, match="cannot be loaded"):
        foveate.fit(
            striped_world, task="caption", backbone=f"blip:{tmp_path}", out=tmp_path / "run"
        )
    with pytest.raises(UsageError, match="a multiple of 8 px"):
        foveate.fit(
            striped_world, task="caption", backbone=f"blip:{blip}", size=36, out=tmp_path / "run"
        )
