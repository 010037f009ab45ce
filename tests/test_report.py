"""The report: one file, nothing fetched, nothing executed, nothing hidden."""

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
from foveate.errors import UnknownName
from foveate.messages import Message, languages
from foveate.reporting.evaluation_page import (
    Comparison,
    ConfusionCell,
    EvaluationPage,
    Example,
    write_report,
)
from foveate.reporting.metric_names import metric_name
from foveate.reporting.model_card import write_model_card
from foveate.types import Score, Scores

TEMPLATES = sorted((Path(foveate.__file__).parent / "reporting" / "templates").glob("*.html.j2"))
CLASSES = ["<script>alert(1)</script>", "猫", "x" * 60]


class Reader(HTMLParser):
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
        cautions=[Message("test.few", "few images")],
        comparisons=[
            Comparison(
                Message("test.folds", "random folds"),
                Score(0.93, 0.9, 0.95, 600),
                Message("test.meaning", "near-duplicates on both sides"),
            )
        ],
        ladder=LADDER,
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


def read(page, path) -> Reader:
    write_report(page, path)
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def test_it_needs_nothing_else(page, tmp_path):
    found = read(page, tmp_path / "report.html")
    assert "script" not in found.tags
    assert all(link.startswith(("data:", "#")) for link in found.links)
    assert "default-src 'none'" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert found.tags.count("svg") == 2


def test_it_says_what_it_was_given(page, tmp_path):
    text = re.sub(r"\s+", " ", read(page, tmp_path / "report.html").text)
    for words in (
        "87.3 %", "81.6 to 91.4 %", "180 test images", "few images", "0.930", "broken.png", "--tuning full", "<script>alert(1)</script>",
        "a/<b>.jpg", "97%", "measured", "–",
    ):  # fmt: skip
        assert words in text


def test_empty_parts_vanish(page, tmp_path):
    bare = replace(
        page,
        cautions=[],
        comparisons=[],
        ladder=[],
        curves=[],
        worst=[],
        skipped=[],
        choices=[],
        scores=Scores({"dice": Score(0.5, count=3)}),
    )
    found = read(bare, tmp_path / "report.html")
    assert found.tags.count("h2") == 3
    assert "svg" not in found.tags


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


# --- what was taken for what, and on which part


def test_cells_hold_their_pictures(page, tmp_path):
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
    found = read(replace(page, confusions=cells, curves=[]), tmp_path / "report.html")
    assert found.tags.count("details") == 1
    assert "cat predicted as <b>dog</b>: 7 images" in found.text
    assert "a/2.png" in found.text


def test_slices_say_who_is_served_worse(page, tmp_path):
    rows = [
        {
            "column": "site",
            "value": "north",
            "score": 0.5,
            "low": 0.4,
            "high": 0.6,
            "count": 12,
            "worse": True,
        }
    ]
    text = re.sub(r"\s+", " ", read(replace(page, slices=rows), tmp_path / "report.html").text)
    assert "sitenorth120.5000.400 to 0.600below average" in text


# --- other languages


def test_no_english_is_left_between_the_tags():
    """Whatever a page says goes through the translator."""
    for path in TEMPLATES:
        text = path.read_text(encoding="utf-8").partition("{% block body %}")[2]
        plain = re.sub(r"{[{%].*?[%}]}|<[^>]*>|&nbsp;", " ", text, flags=re.DOTALL)
        assert re.findall(r"[A-Za-z]{3,}", plain) == []


def test_a_page_is_written_in_its_language(page, tmp_path):
    caution = Message("caution.few_images", "{count:image|images}", count=12)
    write_report(replace(page, lang="zh", cautions=[caution]), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for words in ('lang="zh"', "只基于 12 张图片", "混淆矩阵", "准确率", "180 张测试图片"):
        assert words in text
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
    text = read(replace(page, scores=scores), tmp_path / "report.html").text
    assert "on 1 test image (not used" in text


# --- the card


def test_a_card_is_what_the_hub_reads(page, tmp_path):
    from huggingface_hub import ModelCard

    told = replace(
        page,
        facts=[*page.facts, (Message("fact.data", "data"), "/home/someone/images")],
        license="Apache-2.0",
    )
    write_model_card(told, "classify", "resnet18", tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.eval_results[0].metric_value == pytest.approx(0.873)
    for words in (
        "0.873 (95 % interval 0.816 to 0.914) on 180 test images",
        "few images",
        "foveate fit 'my data' --tuning full",
    ):
        assert words in card.text
    assert "/home/someone" not in card.content  # a card is made to be given away


# --- before a browser


@pytest.mark.skipif(
    not any(map(shutil.which, NAMES)), reason="needs a browser: apt-get install chromium"
)
def test_a_report_before_a_browser(stripes, tmp_path):
    """No word of complaint, nothing asked for, nothing over anything else, on a desk and on a phone; the pictures stay in
    test-artefacts, where CI keeps them."""
    settings = {"data.val": 0.2, "data.test": 0.4, "data.near_duplicates": 1}
    words = {
        "backbone": "test_efficientnet",
        "weights": "none",
        "size": 32,
        "device": "cpu",
        "settings": settings,
    }
    run = foveate.fit(stripes, tuning="probe", out=tmp_path / "run", **words).run
    table = tmp_path / "about.csv"
    lines = [f"{path},{path.stem[-1]}" for path in sorted(stripes.rglob("*.png"))]
    table.write_text("\n".join(["path,digit", *lines]), encoding="utf-8")
    pages = [
        foveate.evaluate(run, slices=table, corrupt=True, lang=lang).folder / "report.html"
        for lang in languages()
    ]
    browser, kept = Browser(tmp_path / "profile"), Path(__file__).parents[1] / "test-artefacts"
    kept.mkdir(exist_ok=True)
    try:
        for page, width in product(pages, (1280, 390)):
            seen = browser.visit(page, width)
            (kept / f"report-{languages()[pages.index(page)]}-{width}.png").write_bytes(
                seen.screenshot
            )
            assert (seen.overlaps, seen.complaints, seen.requests) == ([], [], [])
            assert seen.wide <= 0
            assert page.stat().st_size < 5_000_000
    finally:
        browser.close()


@pytest.mark.skipif(
    not any(map(shutil.which, NAMES)), reason="needs a browser: apt-get install chromium"
)
def test_the_browser_sees_what_is_wrong(tmp_path):
    page = tmp_path / "bad.html"
    body = "<div style='width:900px;height:40px'>one</div><div style='margin-top:-30px;height:40px'>two</div>"
    page.write_text(
        f"<meta name=viewport content='width=device-width'><body>{body}<img src='missing.png'><script>console.error('oh')</script></body>",
        encoding="utf-8",
    )
    browser = Browser(tmp_path / "profile")
    try:
        seen = browser.visit(page, 390)
    finally:
        browser.close()
    assert seen.overlaps
    assert seen.wide > 0
    assert any("oh" in complaint for complaint in seen.complaints)
    assert any("missing.png" in address for address in seen.requests)
