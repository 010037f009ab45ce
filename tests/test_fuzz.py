"""Random and nearly right input to everything that reads what others wrote: an answer or a sentence, never another error. T41.

FOVEATE_FUZZ_SECONDS is the time for all of them together: 8 by default, 60 in CI, as many as wanted with make fuzz. What crashed once
stands here as an example, in words.
"""

from __future__ import annotations

import io
import json
import os
import string
import struct
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from foveate.data.formats import FORMATS, read_table
from foveate.errors import FoveateError
from foveate.images import codec as images
from foveate.modeling.weights import read_tensors
from foveate.predictions import Boxes, Regions
from foveate.recipe import load_recipe, parse_assignment, with_settings
from foveate.run.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from foveate.run.folder import Run
from foveate.serving import kserve as v2
from foveate.serving.requests import RequestError

SECONDS = float(os.environ.get("FOVEATE_FUZZ_SECONDS", "8"))
PARTS = 18  # targets that share them
ROUND = 40  # examples until the clock is looked at


def fuzzed(strategy, body):
    """Rounds of examples, each of a seed of its own, until the time is up."""
    end, number = time.monotonic() + SECONDS / PARTS, 0
    checks = [
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
        HealthCheck.large_base_example,
    ]

    def tried(example):
        body(example)

    while number == 0 or time.monotonic() < end:
        quick = settings(
            max_examples=ROUND,
            deadline=None,
            database=None,
            suppress_health_check=checks,
            print_blob=False,
        )
        hypothesis.seed(number)(quick(given(strategy)(tried)))()
        number += 1


def said_of(call):
    """The sentence that it is refused with; empty where it is not."""
    try:
        call()
    except FoveateError as error:
        return str(error)
    return ""


def harmed(whole):
    """Bytes of a file with some of them changed, cut out, doubled or put elsewhere."""
    place = st.integers(0, max(0, len(whole) - 1))
    change = st.tuples(
        st.sampled_from(["flip", "set", "cut", "end", "twice", "insert"]),
        place,
        place,
        st.binary(max_size=6),
    )
    return st.lists(change, min_size=1, max_size=6).map(lambda changes: _applied(whole, changes))


def _applied(whole, changes):
    content = bytearray(whole)
    for kind, one, other, extra in changes:
        start, end = sorted((min(one, len(content)), min(other, len(content))))
        if kind == "flip" and start < len(content):
            content[start] ^= 1 << (other % 8)
        elif kind == "set":
            content[start : start + len(extra)] = extra
        elif kind == "cut":
            del content[start : min(end, start + 64)]
        elif kind == "end":
            del content[start:]
        elif kind == "twice":
            content[end:end] = content[start : min(end, start + 64)]
        elif kind == "insert":
            content[start:start] = extra
    return bytes(content)


# --- pictures


def pictures():
    y, x = np.mgrid[:12, :20]
    colours = Image.fromarray(np.stack([x * 12, y * 20, x + y], -1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    forms = [
        ("JPEG", {"exif": exif}),
        ("PNG", {"exif": exif}),
        ("WEBP", {"exif": exif}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("JPEG2000", {}),
    ]
    for form, options in forms:
        buffer = io.BytesIO()
        colours.save(buffer, format=form, **options)
        yield buffer.getvalue()


def test_t41_any_bytes_are_a_picture_or_a_sentence():
    whole = list(pictures())

    def body(content):
        for reader in (
            lambda: images.read_image(content, 8),
            lambda: images.read_size(content),
            lambda: images.read_index_mask(content),
        ):
            try:
                found = reader()
            except FoveateError:
                continue
            assert isinstance(found, tuple | np.ndarray)

    fuzzed(st.one_of(st.binary(max_size=200), *map(harmed, whole)), body)


# --- labels


@pytest.fixture
def table_of(tmp_path):
    """Writes a file beside two pictures and reads the data: a table, or a sentence."""
    for name in ("a.png", "images/a.png", "JPEGImages/a.png", "masks/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (40, 30), 1).save(tmp_path / name)

    def read(name, content, format="auto", at=None):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(
            content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        )
        assert (
            len(
                said_of(
                    lambda: looked_at(read_table(tmp_path if at is None else tmp_path / at, format))
                )
            )
            < 20_000
        )

    return read


def looked_at(table):
    for sample in table.samples:
        assert sample.key
        if isinstance(sample.target, Boxes):
            assert np.isfinite(sample.target.xyxy).all()
        if isinstance(sample.target, Regions):  # masks are read when they are needed
            assert sample.target.mask.ndim == 2


numbers = st.one_of(
    st.integers(-3, 50),
    st.floats(),
    st.sampled_from(["1e309", "nan", "-0", "½", "０.5", "1_0", "0x1", ""]),
).map(str)
words = st.one_of(
    numbers,
    st.text(max_size=5),
    st.sampled_from(["0", "1", "cat", "0.5", "train", "\x00", "\ufeff"]),
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["a.png", 1, 7, "cat"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


def test_t41_yolo(table_of):
    table_of("data.yaml", "train: images\nnames: [cat, dog]\n")
    lines = st.lists(st.lists(words, max_size=9).map(" ".join), max_size=5).map("\n".join)
    good = b"train: images\nval: [images]\nnames: {0: cat, 1: dog}\nnc: 2\npath: .\n"
    fuzzed(lines, lambda text: table_of("labels/a.txt", text, "yolo", "data.yaml"))
    fuzzed(harmed(good), lambda content: table_of("card.yaml", content, "yolo", "card.yaml"))


def mixed(rows, spare):
    """A dictionary of which each value may be something else, or missing."""
    return st.fixed_dictionaries(
        {}, optional={name: st.one_of(value, spare) for name, value in rows.items()}
    )


def test_t41_coco(table_of):
    box = st.lists(st.one_of(st.floats(), st.integers(-9, 99)), min_size=3, max_size=5)
    shape = st.one_of(
        box.map(lambda row: [row * 2]),
        values,
        st.just({"counts": "abc", "size": [30, 40]}),
        st.just({"counts": [5, 1195], "size": [30, 40]}),
    )
    entry = mixed(
        {
            "id": st.integers(0, 3),
            "image_id": st.just(7),
            "category_id": st.just(1),
            "bbox": box,
            "segmentation": shape,
            "iscrowd": st.sampled_from([0, 1]),
        },
        values,
    )
    image = mixed(
        {
            "id": st.just(7),
            "file_name": st.just("a.png"),
            "width": st.just(40),
            "height": st.just(30),
        },
        values,
    )
    category = mixed({"id": st.just(1), "name": st.just("cat")}, values)
    rows = {
        "images": st.lists(image, max_size=2),
        "categories": st.lists(category, max_size=2),
        "annotations": st.lists(entry, max_size=3),
    }
    whole = st.fixed_dictionaries(
        {}, optional={name: st.one_of(value, value, value, values) for name, value in rows.items()}
    )
    text = st.one_of(whole, values).map(json.dumps)
    for form in ("coco", "coco_masks", "coco_captions"):
        fuzzed(text, lambda content, form=form: table_of("x.json", content, form, "x.json"))


def test_t41_voc(table_of):
    good = (
        b"<annotation><filename>a.png</filename><size><width>40</width><height>30</height></size><object><name>cat</name>"
        b"<difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object></annotation>"
    )
    table_of("JPEGImages/b.txt", "")
    fuzzed(harmed(good), lambda content: table_of("Annotations/a.xml", content, "voc"))
    tagged = words.map(
        lambda word: good.decode().replace(">9<", f">{word}<").replace(">cat<", f">{word}<")
    )
    fuzzed(tagged, lambda text: table_of("Annotations/a.xml", text, "voc"))


def test_t41_tables(table_of):
    head = "path,label,split,group,x0,y0,x1,y1,text"
    rows = st.lists(
        st.lists(st.one_of(words, st.just("a.png"), st.just('"')), max_size=9).map(",".join),
        max_size=4,
    )
    fuzzed(
        rows.map(lambda lines: "\n".join([head, *lines])),
        lambda text: [
            table_of("t.csv", text, form, "t.csv") for form in ("table", "boxes_table", "captions")
        ],
    )
    good = b"path,label\na.png,cat\nimages/a.png,dog\n"
    fuzzed(harmed(good), lambda content: table_of("u.csv", content, "table", "u.csv"))
    row = mixed(
        {"path": st.just("a.png"), "label": st.just("cat"), "text": st.just("a cat")}, values
    )
    fuzzed(
        st.lists(row, min_size=1, max_size=3).map(lambda each: "\n".join(map(json.dumps, each))),
        lambda text: table_of("t.jsonl", text, "table", "t.jsonl"),
    )


def test_t41_no_format_falls_over_what_it_looks_at(table_of, tmp_path):
    """To look is to be asked about anything; `sniff` never raises."""
    names = st.sampled_from(
        [
            "x.json",
            "x.yaml",
            "data.yaml",
            "x.csv",
            "Annotations/a.xml",
            "classes.txt",
            "labels/a.txt",
        ]
    )

    def body(pair):
        name, content = pair
        table_of(name, content)
        for form in FORMATS.names():
            assert FORMATS.get(form)().sniff(tmp_path) in (True, False)
            assert FORMATS.get(form)().sniff(tmp_path / name) in (True, False)
        (tmp_path / name).unlink()

    fuzzed(
        st.tuples(
            names,
            st.one_of(
                st.binary(max_size=60), st.text(string.printable, max_size=60).map(str.encode)
            ),
        ),
        body,
    )


# --- recipes, weights, checkpoints, requests


def test_t41_recipes_and_settings(tmp_path, quick):
    whole = quick.to_yaml().encode()

    def body(content):
        (tmp_path / "recipe.yaml").write_bytes(content)
        assert len(said_of(lambda: load_recipe(tmp_path / "recipe.yaml"))) < 2000

    def setting(text):
        assert len(said_of(lambda: with_settings(quick, dict([parse_assignment(text)])))) < 2000

    fuzzed(
        st.one_of(
            harmed(whole), harmed(b"seed: 3\ntraining: {lr: 0.1, ema: 0}\ntask: {name: classify}\n")
        ),
        body,
    )
    fields = st.sampled_from(
        [
            "training.lr",
            "task",
            "tuning.rank",
            "seed",
            "data",
            "",
            "a.b.c",
            "training.epochs",
            "task.name",
        ]
    )
    fuzzed(st.tuples(fields, st.text(max_size=12)).map("=".join), setting)


def test_t41_weights_and_checkpoints(tmp_path):
    import torch

    run = Run.create(tmp_path / "run", "x")
    save_checkpoint(run.folder, "step-1", Checkpoint({"a": torch.zeros(4)}, {"step": 1}))
    save_checkpoint(run.folder, "step-2", Checkpoint({"a": torch.ones(4)}, {"step": 2}))
    files = {file: file.read_bytes() for file in (run.folder / "checkpoints" / "step-2").iterdir()}

    def tensors(content):
        (tmp_path / "w.safetensors").write_bytes(content)
        assert len(said_of(lambda: read_tensors(tmp_path / "w.safetensors"))) < 2000

    def checkpoint(place):
        file, content = place
        file.write_bytes(content)
        found = newest_checkpoint(run.folder, lambda _: None)
        step = found.state["step"]
        assert step == 2 or content != files[file]
        assert (
            step == 1 or content == files[file] or file.name == "manifest.json"
        )  # a line twice says the same sums
        assert found.state == {"step": step}
        assert bool((found.tensors["a"] == step - 1).all())
        file.write_bytes(files[file])

    whole = next(content for file, content in files.items() if file.suffix == ".safetensors")
    header = values.map(json.dumps).map(
        lambda text: struct.pack("<Q", len(text)) + text.encode() + bytes(16)
    )
    fuzzed(st.one_of(harmed(whole), header), tensors)
    fuzzed(
        st.sampled_from(sorted(files)).flatmap(
            lambda file: st.tuples(st.just(file), harmed(files[file]))
        ),
        checkpoint,
    )


def test_t41_requests():
    """The JSON of the Open Inference Protocol, and bytes behind it."""
    tensor = mixed(
        {
            "name": st.just("image"),
            "datatype": st.just("BYTES"),
            "shape": st.just([1]),
            "data": st.just(["aGk="]),
            "parameters": st.just({"binary_data_size": 6}),
        },
        values,
    )
    request = mixed(
        {
            "inputs": st.lists(tensor, min_size=1, max_size=2),
            "id": st.just("x"),
            "outputs": st.just([{"name": "answer"}]),
        },
        values,
    )
    header = st.one_of(
        st.none(), st.sampled_from(["", "0", "9", "²", "-1", "+1", "1e3", "99999999999999999999"])
    )

    def body(asked):
        content, behind, length = asked
        body = json.dumps(content).encode()
        try:
            found, pictures = v2.parse_request(
                body + behind, str(len(body)) if length == "right" else length, 4
            )
        except RequestError:
            return
        assert isinstance(found, dict)
        assert all(isinstance(each, bytes) for each in pictures)
        try:
            v2._requested_outputs(found, {"answer": None, "scores": None}, False)
        except RequestError:
            return

    fuzzed(
        st.tuples(
            st.one_of(request, values), st.binary(max_size=12), st.one_of(header, st.just("right"))
        ),
        body,
    )
    fuzzed(
        st.tuples(st.binary(max_size=40), header),
        lambda pair: _quietly(lambda: v2.parse_request(pair[0], pair[1], 4)),
    )


def _quietly(call):
    try:
        call()
    except RequestError:
        return


@pytest.mark.parametrize(
    ("name", "format", "content"),
    [
        ("x.json", "coco_captions", {"images": [], "annotations": [{"image_id": []}]}),
        (
            "x.json",
            "coco_captions",
            {
                "images": [{"id": {}, "file_name": "a.png"}],
                "annotations": [{"image_id": 1, "caption": "a"}],
            },
        ),
        (
            "x.json",
            "coco_masks",
            {
                "images": [{"id": 7, "file_name": 5, "width": 40, "height": 30}],
                "categories": [],
                "annotations": [],
            },
        ),
        (
            "x.json",
            "coco_masks",
            {
                "images": [{"id": 7, "file_name": "a.png", "width": 1e999, "height": 30}],
                "categories": [],
                "annotations": [],
            },
        ),
    ],
)
def test_t41_what_crashed_once(table_of, name, format, content):
    table_of(name, json.dumps(content), format, name)


@pytest.mark.parametrize("header", ["²", "9" * 5000])
def test_t41_lengths_that_crashed_once(header):
    with pytest.raises(RequestError, match="does not fit the length of the body"):
        v2.parse_request(b"{}", header, 4)
