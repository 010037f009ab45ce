"""The report: one file, nothing fetched, nothing executed, nothing hidden."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from foveate.report import Comparison, Mistake, Page, write
from foveate.types import Score, Scores

CLASSES = ["<script>alert(1)</script>", "猫", "x" * 60]


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags, self.links, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href") and value]

    def handle_data(self, data):
        self.text += data


LADDER = [
    {"tuning": "probe", "accuracy": 0.9, "low": 0.8, "high": 0.95, "trained": 1234, "megabytes": 0.31, "seconds": 4.2, "note": "<chosen>"},
    {"tuning": "last", "note": "not tried"},
]


@pytest.fixture
def page() -> Page:
    rows = [{"class": name, "precision": 0.5, "recall": None, "f1": 1.0, "count": 3} for name in CLASSES]
    return Page(
        title="run",
        command="foveate fit 'my data' --tuning full",
        split="test",
        scores=Scores({"accuracy": Score(0.873, 0.816, 0.914, 180)}, rows, {"confusion": [[3, 1, 0], [0, 4, 0], [1, 0, 2]], "classes": CLASSES}),
        facts=[("backbone", "resnet18")],
        choices=[("training.precision", "fp32", "measured")],
        cautions=["few images"],
        comparisons=[Comparison("random folds", Score(0.93, 0.9, 0.95, 600), "near-copies on both sides")],
        ladder=LADDER,
        curves=[{"epoch": 1, "train_loss": 1.0, "val_loss": 1.1, "val_accuracy": 0.5}, {"epoch": 2, "train_loss": 0.8}],
        mistakes=[Mistake("a/<b>.jpg", np.zeros((20, 30, 3), np.uint8), [("answer", "猫 (97%)"), ("truth", CLASSES[0])])],
        skipped=[("broken.png", "no reader knows its content")],
        environment={"torch": "2.15"},
    )


def read(page, path) -> Reader:
    write(page, path)
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
        page, cautions=[], comparisons=[], ladder=[], curves=[], mistakes=[], skipped=[], choices=[], scores=Scores({"dice": Score(0.5, count=3)})
    )
    found = read(bare, tmp_path / "report.html")
    assert found.tags.count("h2") == 3
    assert "svg" not in found.tags


def test_many_classes_are_cut_to_the_most_confused(page, tmp_path):
    matrix = np.eye(60, dtype=int) * 5
    matrix[3, 7] = 4
    tables = {"confusion": matrix.tolist(), "classes": [f"class {number}" for number in range(60)]}
    write(replace(page, scores=Scores(page.scores.numbers, [], tables)), tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 2_000_000


def test_the_same_page_gives_the_same_bytes(page, tmp_path):
    write(page, tmp_path / "one.html")
    write(page, tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
