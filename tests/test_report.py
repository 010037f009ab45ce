"""The report: one file that loads and executes nothing, and shows all its inputs."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import foveate
from browser import NAMES, Browser
from foveate.api.evaluate.result import EvaluateResult
from foveate.errors import UnknownName
from foveate.evaluation.metrics import metric_for
from foveate.messages import Message, languages
from foveate.predictions import Regions
from foveate.reporting.evaluation_page import (
    Comparison,
    ConfusionCell,
    EvaluationPage,
    Example,
    describe_regions,
    write_report,
)
from foveate.reporting.metric_names import metric_name
from foveate.reporting.model_card import write_model_card
from foveate.types import Score, Scores

pytestmark = pytest.mark.figures

TEMPLATES = sorted((Path(foveate.__file__).parent / "reporting" / "templates").glob("*.html.j2"))
CLASSES = ["<script>alert(1)</script>", "猫", "x" * 60]


class PageParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags, self.links, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [
            value for name, value in attributes if name in ("src", "href", "xlink:href") and value
        ]

    def handle_data(self, data):
        self.text += data


LADDER = [
    {
        "tuning": "probe",
        "accuracy": 0.9,
        "low": 0.8,
        "high": 0.95,
        "trained": 1234,
        "megabytes": 0.31,
        "seconds": 4.2,
        "note": "<chosen>",
    },
    {"tuning": "last", "note": "not tried"},
]


@pytest.fixture
def page() -> EvaluationPage:
    rows = [
        {"class": name, "precision": 0.5, "recall": None, "f1": 1.0, "count": 3} for name in CLASSES
    ]
    return EvaluationPage(
        title="run",
        command="foveate fit 'my data' --tuning full",
        split="test",
        scores=Scores(
            {"accuracy": Score(0.873, 0.816, 0.914, 180)},
            rows,
            {"confusion": [[3, 1, 0], [0, 4, 0], [1, 0, 2]], "classes": CLASSES},
        ),
        facts=[(Message("fact.backbone", "backbone"), "resnet18")],
        license="",
        choices=[("training.precision", "fp32", "measured")],
        cautions=[Message("test.few", "few images: run foveate evaluate RUN on more")],
        comparisons=[
            Comparison(
                Message("test.folds", "random folds"),
                Score(0.93, 0.9, 0.95, 600),
                Message("test.meaning", "near-duplicates on both sides"),
            )
        ],
        tuning_trials=LADDER,
        curves=[
            {"epoch": 1, "train_loss": 1.0, "val_loss": 1.1, "val_accuracy": 0.5},
            {"epoch": 2, "train_loss": 0.8},
        ],
        worst=[
            Example(
                "a/<b>.jpg",
                np.zeros((20, 30, 3), np.uint8),
                [
                    (Message("report.predicted", "predicted"), "猫 (97%)"),
                    (Message("report.true", "true"), CLASSES[0]),
                ],
            )
        ],
        skipped=[("broken.png", "unrecognized image format")],
        environment={"torch": "2.15"},
    )


def write_and_parse(page, path) -> PageParser:
    write_report(page, path)
    parser = PageParser()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def test_a_report_is_self_contained(page, tmp_path):
    parsed = write_and_parse(page, tmp_path / "report.html")
    assert "script" not in parsed.tags
    assert all(link.startswith(("data:", "#")) for link in parsed.links)
    assert "default-src 'none'" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert parsed.tags.count("svg") == 3  # the confusion matrix and two curves


def test_a_report_contains_its_inputs(page, tmp_path):
    text = re.sub(r"\s+", " ", write_and_parse(page, tmp_path / "report.html").text)
    for expected in (
        "87.3 %", "81.6 to 91.4 %", "180 test images", "few images: run foveate evaluate RUN on more.", "0.930", "broken.png", "--tuning full", "<script>alert(1)</script>",
        "a/<b>.jpg", "97%", "measured", "–",
    ):  # fmt: skip
        assert expected in text


def test_commands_are_set_as_code_and_cautions_are_sentences(page, tmp_path):
    write_report(page, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<li>few images: run <code>foveate evaluate RUN</code> on more.</li>" in html


def test_a_perfect_score_says_that_there_are_no_errors(page, tmp_path):
    perfect = replace(page, worst=[], is_perfect=True, data="photos")
    text = write_and_parse(perfect, tmp_path / "report.html").text
    assert "There are no errors on these images." in text
    assert "run · photos" in text


def test_empty_sections_are_omitted(page, tmp_path):
    empty_page = replace(
        page,
        cautions=[],
        comparisons=[],
        tuning_trials=[],
        curves=[],
        worst=[],
        skipped=[],
        choices=[],
        scores=Scores({"dice": Score(0.5, count=3)}),
    )
    parsed = write_and_parse(empty_page, tmp_path / "report.html")
    assert parsed.tags.count("h2") == 3
    assert "svg" not in parsed.tags


def test_t77_terminal_report_and_model_card_count_the_objects(page, tmp_path):
    scores = {"dice": Score(0.921, 0.85, 0.96, 12), "dice_per_image": Score(0.54, count=12)}
    scores["mean_iou"] = Score(0.922, count=12)
    objects = {"small": [1, 13], "medium": [0, 0], "large": [3, 8]}
    masks = replace(page, scores=Scores(scores, [], {"objects": objects}))
    sentence = (
        "Dice 0.921 [0.850, 0.960] of all pixels together, Dice 0.540 in the mean image; "
        "4 of 21 objects found (small: 1 of 13, medium: 0 of 0, large: 3 of 8)"
    )
    assert f"{sentence}." in write_and_parse(masks, tmp_path / "report.html").text
    write_model_card(masks, "segment", "resnet18", tmp_path / "README.md")
    assert f"{sentence}." in (tmp_path / "README.md").read_text("utf-8")
    metric = metric_for(Regions, ("background", "spot"))
    folder = tmp_path / "evaluation"
    result = EvaluateResult(tmp_path, folder, "test", masks.scores, [], 0, metric, 1.0)
    assert result.lines()[0].endswith(f": {sentence}")
    without = replace(masks, scores=Scores(scores))
    assert "found" not in str(describe_regions(without.scores))


def test_many_classes_are_cut_to_the_most_confused(page, tmp_path):
    matrix = np.eye(60, dtype=int) * 5
    matrix[3, 7] = 4
    tables = {"confusion": matrix.tolist(), "classes": [f"class {number}" for number in range(60)]}
    write_report(
        replace(page, scores=Scores(page.scores.numbers, [], tables)), tmp_path / "report.html"
    )
    assert (tmp_path / "report.html").stat().st_size < 2_000_000


def test_the_same_page_gives_the_same_bytes(page, tmp_path):
    write_report(page, tmp_path / "one.html")
    write_report(page, tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


# --- confusions and slices


def test_confusion_cells_show_their_images(page, tmp_path):
    cells = [
        ConfusionCell(
            "cat",
            "<b>dog</b>",
            7,
            [
                ("a/1.png", np.zeros((9, 9, 3), np.uint8)),
                ("a/2.png", np.zeros((9, 9, 3), np.uint8)),
            ],
        )
    ]
    parsed = write_and_parse(replace(page, confusions=cells, curves=[]), tmp_path / "report.html")
    assert parsed.tags.count("details") == 1
    assert "cat predicted as <b>dog</b>: 7 images" in parsed.text
    assert "a/2.png" in parsed.text


def test_slices_below_average_are_pointed_out(page, tmp_path):
    rows = [
        {
            "column": "site",
            "value": "north",
            "score": 0.5,
            "low": 0.4,
            "high": 0.6,
            "count": 12,
            "groups": 6,
            "no_interval": None,
            "worse": True,
        }
    ]
    text = re.sub(
        r"\s+", " ", write_and_parse(replace(page, slices=rows), tmp_path / "report.html").text
    )
    assert "sitenorth12 in 6 groups0.5000.400 to 0.600below average" in text


# --- other languages


def test_translated_pages_contain_no_english():
    """All texts of the templates go through the translator."""
    for path in TEMPLATES:
        text = path.read_text(encoding="utf-8").partition("{% block body %}")[2]
        plain = re.sub(r"{[{%].*?[%}]}|<[^>]*>|&nbsp;", " ", text, flags=re.DOTALL)
        assert re.findall(r"[A-Za-z]{3,}", plain) == []


def test_a_page_is_written_in_its_language(page, tmp_path):
    caution = Message("caution.few_images", "{count:image|images}", count=12)
    reason = Message("choice.measured", "measured: {times}", times="fp32 9 ms")
    choices = [("training.precision", "fp32", reason), ("device", "cpu", "as it is")]
    translated = replace(page, lang="zh", cautions=[caution], choices=choices)
    write_report(translated, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for expected in (
        'lang="zh"',
        "只基于 12 张图片",
        "混淆矩阵",
        "准确率",
        "180 张测试图片",
        "实测：fp32 9 ms",
    ):
        assert expected in text
    with pytest.raises(UnknownName, match="en, zh"):
        write_report(replace(page, lang="xx"), tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_metrics_have_names_those_of_plugins_too():
    assert str(metric_name("mean_iou")) == "mean IoU"
    assert str(metric_name("val_macro_f1")) == "validation macro F1"
    assert metric_name("val_accuracy").in_language("zh") == "验证准确率"
    assert str(metric_name("off_by_one")) == "off by one"


def test_a_noun_agrees_with_its_number(page, tmp_path):
    scores = Scores({"accuracy": Score(1.0, count=1)})
    text = write_and_parse(replace(page, scores=scores), tmp_path / "report.html").text
    assert "on 1 test image (not used" in text


# --- the model card


def test_a_model_card_is_readable_by_the_hub(page, tmp_path):
    from huggingface_hub import ModelCard

    card_page = replace(
        page,
        facts=[*page.facts, (Message("fact.data", "data"), "/home/someone/images")],
        license="Apache-2.0",
    )
    write_model_card(card_page, "classify", "resnet18", tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.eval_results[0].metric_value == pytest.approx(0.873)
    for expected in (
        "0.873 (95 % interval 0.816 to 0.914) on 180 test images",
        "- Few images: run foveate evaluate RUN on more.",
        "foveate fit 'my data' --tuning full",
    ):
        assert expected in card.text
    assert "/home/someone" not in card.content  # a card is published


# --- in a browser


@pytest.mark.skipif(
    not any(map(shutil.which, NAMES)), reason="needs a browser: apt-get install chromium"
)
def test_a_report_in_a_browser(stripes, tmp_path):
    """No console messages, requests or overlaps, in desktop and phone widths.

    Screenshots are kept in test-artefacts, which CI saves.
    """
    settings = {"data.val": 0.2, "data.test": 0.4, "data.near_duplicates": 1}
    options = {
        "backbone": "test_efficientnet",
        "weights": "none",
        "size": 32,
        "device": "cpu",
        "settings": settings,
    }
    run = foveate.fit(stripes, tuning="probe", out=tmp_path / "run", **options).run
    table = tmp_path / "about.csv"
    lines = [f"{path},{path.stem[-1]}" for path in sorted(stripes.rglob("*.png"))]
    table.write_text("\n".join(["path,digit", *lines]), encoding="utf-8")
    pages = [
        foveate.evaluate(run, slices=table, corrupt=True, lang=lang).folder / "report.html"
        for lang in languages()
    ]
    browser, screenshots = (
        Browser(tmp_path / "profile"),
        Path(__file__).parents[1] / "test-artefacts",
    )
    screenshots.mkdir(exist_ok=True)
    try:
        for page, width in product(pages, (1280, 390)):
            state = browser.visit(page, width)
            (screenshots / f"report-{languages()[pages.index(page)]}-{width}.png").write_bytes(
                state.screenshot
            )
            assert (state.overlaps, state.messages, state.requests) == ([], [], [])
            assert state.overflow <= 0
            assert page.stat().st_size < 5_000_000
    finally:
        browser.close()


@pytest.mark.skipif(
    not any(map(shutil.which, NAMES)), reason="needs a browser: apt-get install chromium"
)
def test_the_browser_check_finds_errors(tmp_path):
    page = tmp_path / "bad.html"
    body = "<div style='width:900px;height:40px'>one</div><div style='margin-top:-30px;height:40px'>two</div>"
    page.write_text(
        f"<meta name=viewport content='width=device-width'><body>{body}<img src='missing.png'><script>console.error('oh')</script></body>",
        encoding="utf-8",
    )
    browser = Browser(tmp_path / "profile")
    try:
        state = browser.visit(page, 390)
    finally:
        browser.close()
    assert state.overlaps
    assert state.overflow > 0
    assert any("oh" in message for message in state.messages)
    assert any("missing.png" in address for address in state.requests)
