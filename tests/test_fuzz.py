"""T41: random and nearly valid input to everything that reads files or requests.

The outcome is a result or a FoveateError, never another exception. FOVEATE_FUZZ_SECONDS is the time
for all tests together: 8 by default, 60 in CI, more with `make fuzz`. Inputs that crashed once are
explicit examples at the end.
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

from foveate.data.formats import FORMATS, Reading, read_table
from foveate.errors import FoveateError
from foveate.images import codec
from foveate.modeling.weights import read_tensors
from foveate.predictions import Boxes, Regions
from foveate.recipe import load_recipe, with_settings
from foveate.run.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from foveate.run.folder import Run
from foveate.serving import kserve as v2
from foveate.serving.requests import RequestError
from foveate.utils.validation import parse_assignment

SECONDS = float(os.environ.get("FOVEATE_FUZZ_SECONDS", "8"))
CALLS = 18  # number of calls of `fuzz`, which share the time
EXAMPLES = 40  # examples between two looks at the clock


def fuzz(strategy, check):
    """Run rounds of examples, each with its own seed, until the time is up."""
    end, seed = time.monotonic() + SECONDS / CALLS, 0
    checks = [
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
        HealthCheck.large_base_example,
    ]

    def run_example(example):
        check(example)

    while seed == 0 or time.monotonic() < end:
        profile = settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=False,
            suppress_health_check=checks,
            print_blob=False,
        )
        hypothesis.seed(seed)(profile(given(strategy)(run_example)))()
        seed += 1


def error_message(call):
    """Return the message of the error that a call raises; empty if it raises none."""
    try:
        call()
    except FoveateError as error:
        return str(error)
    return ""


def damaged(content):
    """A strategy for bytes of a file that are changed, deleted, repeated or inserted."""
    position = st.integers(0, max(0, len(content) - 1))
    change = st.tuples(
        st.sampled_from(["flip", "set", "cut", "end", "twice", "insert"]),
        position,
        position,
        st.binary(max_size=6),
    )
    return st.lists(change, min_size=1, max_size=6).map(
        lambda changes: _apply_changes(content, changes)
    )


def _apply_changes(original, changes):
    content = bytearray(original)
    for operation, first, second, extra in changes:
        start, end = sorted((min(first, len(content)), min(second, len(content))))
        if operation == "flip" and start < len(content):
            content[start] ^= 1 << (second % 8)
        elif operation == "set":
            content[start : start + len(extra)] = extra
        elif operation == "cut":
            del content[start : min(end, start + 64)]
        elif operation == "end":
            del content[start:]
        elif operation == "twice":
            content[end:end] = content[start : min(end, start + 64)]
        elif operation == "insert":
            content[start:start] = extra
    return bytes(content)


# --- images


def encoded_images():
    y, x = np.mgrid[:12, :20]
    image = Image.fromarray(np.stack([x * 12, y * 20, x + y], -1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    formats = [
        ("JPEG", {"exif": exif}),
        ("PNG", {"exif": exif}),
        ("WEBP", {"exif": exif}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("JPEG2000", {}),
    ]
    for format, options in formats:
        buffer = io.BytesIO()
        image.save(buffer, format=format, **options)
        yield buffer.getvalue()


def test_t41_any_bytes_are_an_image_or_an_error_message():
    files = list(encoded_images())

    def check(content):
        for reader in (
            lambda: codec.read_image(content, 8),
            lambda: codec.read_size(content),
            lambda: codec.read_index_mask(content),
        ):
            try:
                result = reader()
            except FoveateError:
                continue
            assert isinstance(result, tuple | np.ndarray)

    fuzz(st.one_of(st.binary(max_size=200), *map(damaged, files)), check)


# --- labels


@pytest.fixture
def read_files(tmp_path):
    """A function that writes a file beside four images and reads the data: a table or an error."""
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
                error_message(
                    lambda: inspect_table(
                        read_table(tmp_path if at is None else tmp_path / at, format)
                    )
                )
            )
            < 20_000
        )

    return read


def inspect_table(table):
    for sample in table.samples:
        assert sample.key
        if isinstance(sample.target, Boxes):
            assert np.isfinite(sample.target.xyxy).all()
        if isinstance(sample.target, Regions):  # masks are read lazily
            assert sample.target.mask.ndim == 2


number_texts = st.one_of(
    st.integers(-3, 50),
    st.floats(),
    st.sampled_from(["1e309", "nan", "-0", "½", "０.5", "1_0", "0x1", ""]),
).map(str)
cells = st.one_of(
    number_texts,
    st.text(max_size=5),
    st.sampled_from(["0", "1", "cat", "0.5", "train", "\x00", "\ufeff"]),
)
json_values = st.recursive(
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


def test_t41_yolo(read_files):
    read_files("data.yaml", "train: images\nnames: [cat, dog]\n")
    lines = st.lists(st.lists(cells, max_size=9).map(" ".join), max_size=5).map("\n".join)
    valid = b"train: images\nval: [images]\nnames: {0: cat, 1: dog}\nnc: 2\npath: .\n"
    fuzz(lines, lambda text: read_files("labels/a.txt", text, "yolo", "data.yaml"))
    fuzz(damaged(valid), lambda content: read_files("card.yaml", content, "yolo", "card.yaml"))


def mostly_valid(fields, replacement):
    """A strategy for dictionaries in which each value may be replaced or missing."""
    return st.fixed_dictionaries(
        {}, optional={name: st.one_of(value, replacement) for name, value in fields.items()}
    )


def test_t41_coco(read_files):
    box = st.lists(st.one_of(st.floats(), st.integers(-9, 99)), min_size=3, max_size=5)
    segmentation = st.one_of(
        box.map(lambda row: [row * 2]),
        json_values,
        st.just({"counts": "abc", "size": [30, 40]}),
        st.just({"counts": [5, 1195], "size": [30, 40]}),
    )
    annotation = mostly_valid(
        {
            "id": st.integers(0, 3),
            "image_id": st.just(7),
            "category_id": st.just(1),
            "bbox": box,
            "segmentation": segmentation,
            "iscrowd": st.sampled_from([0, 1]),
        },
        json_values,
    )
    image = mostly_valid(
        {
            "id": st.just(7),
            "file_name": st.just("a.png"),
            "width": st.just(40),
            "height": st.just(30),
        },
        json_values,
    )
    category = mostly_valid({"id": st.just(1), "name": st.just("cat")}, json_values)
    parts = {
        "images": st.lists(image, max_size=2),
        "categories": st.lists(category, max_size=2),
        "annotations": st.lists(annotation, max_size=3),
    }
    document = st.fixed_dictionaries(
        {},
        optional={
            name: st.one_of(value, value, value, json_values) for name, value in parts.items()
        },
    )
    text = st.one_of(document, json_values).map(json.dumps)
    for format in ("coco", "coco_masks", "coco_captions"):
        fuzz(text, lambda content, format=format: read_files("x.json", content, format, "x.json"))


def test_t41_voc(read_files):
    valid = (
        b"<annotation><filename>a.png</filename><size><width>40</width><height>30</height></size><object><name>cat</name>"
        b"<difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object></annotation>"
    )
    read_files("JPEGImages/b.txt", "")
    fuzz(damaged(valid), lambda content: read_files("Annotations/a.xml", content, "voc"))
    documents = cells.map(
        lambda value: valid.decode().replace(">9<", f">{value}<").replace(">cat<", f">{value}<")
    )
    fuzz(documents, lambda text: read_files("Annotations/a.xml", text, "voc"))


def test_t41_tables(read_files):
    head = "path,label,split,group,x0,y0,x1,y1,text"
    rows = st.lists(
        st.lists(st.one_of(cells, st.just("a.png"), st.just('"')), max_size=9).map(",".join),
        max_size=4,
    )
    fuzz(
        rows.map(lambda lines: "\n".join([head, *lines])),
        lambda text: [
            read_files("t.csv", text, format, "t.csv")
            for format in ("table", "boxes_table", "captions")
        ],
    )
    valid = b"path,label\na.png,cat\nimages/a.png,dog\n"
    fuzz(damaged(valid), lambda content: read_files("u.csv", content, "table", "u.csv"))
    row = mostly_valid(
        {"path": st.just("a.png"), "label": st.just("cat"), "text": st.just("a cat")}, json_values
    )
    fuzz(
        st.lists(row, min_size=1, max_size=3).map(lambda each: "\n".join(map(json.dumps, each))),
        lambda text: read_files("t.jsonl", text, "table", "t.jsonl"),
    )


def test_t41_no_format_crashes_while_sniffing(read_files, tmp_path):
    """`sniff` is called on any file and never raises."""
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

    def check(pair):
        name, content = pair
        read_files(name, content)
        for format in FORMATS.names():
            for path in (tmp_path, tmp_path / name):
                assert isinstance(FORMATS.get(format)().sniff(path), Reading | None)
        (tmp_path / name).unlink()

    fuzz(
        st.tuples(
            names,
            st.one_of(
                st.binary(max_size=60), st.text(string.printable, max_size=60).map(str.encode)
            ),
        ),
        check,
    )


# --- recipes, weights, checkpoints, requests


def test_t41_recipes_and_settings(tmp_path, quick):
    yaml = quick.to_yaml().encode()

    def check_recipe(content):
        (tmp_path / "recipe.yaml").write_bytes(content)
        assert len(error_message(lambda: load_recipe(tmp_path / "recipe.yaml"))) < 2000

    def check_setting(text):
        assert (
            len(error_message(lambda: with_settings(quick, dict([parse_assignment(text)])))) < 2000
        )

    fuzz(
        st.one_of(
            damaged(yaml),
            damaged(b"seed: 3\ntraining: {lr: 0.1, ema: 0}\ntask: {name: classify}\n"),
        ),
        check_recipe,
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
    fuzz(st.tuples(fields, st.text(max_size=12)).map("=".join), check_setting)


def test_t41_weights_and_checkpoints(tmp_path):
    import torch

    run = Run.create(tmp_path / "run", "x")
    save_checkpoint(run.folder, "step-1", Checkpoint({"a": torch.zeros(4)}, {"step": 1}))
    save_checkpoint(run.folder, "step-2", Checkpoint({"a": torch.ones(4)}, {"step": 2}))
    files = {file: file.read_bytes() for file in (run.folder / "checkpoints" / "step-2").iterdir()}

    def check_weights(content):
        (tmp_path / "w.safetensors").write_bytes(content)
        assert len(error_message(lambda: read_tensors(tmp_path / "w.safetensors"))) < 2000

    def check_checkpoint(file_and_content):
        file, content = file_and_content
        file.write_bytes(content)
        newest = newest_checkpoint(run.folder, lambda _: None)
        step = newest.state["step"]
        assert step == 2 or content != files[file]
        assert (
            step == 1 or content == files[file] or file.name == "manifest.json"
        )  # a repeated line has the same checksums
        assert newest.state == {"step": step}
        assert bool((newest.tensors["a"] == step - 1).all())
        file.write_bytes(files[file])

    weights = next(content for file, content in files.items() if file.suffix == ".safetensors")
    header = json_values.map(json.dumps).map(
        lambda text: struct.pack("<Q", len(text)) + text.encode() + bytes(16)
    )
    fuzz(st.one_of(damaged(weights), header), check_weights)
    fuzz(
        st.sampled_from(sorted(files)).flatmap(
            lambda file: st.tuples(st.just(file), damaged(files[file]))
        ),
        check_checkpoint,
    )


def test_t41_requests():
    """The JSON of the Open Inference Protocol, with binary data after it."""
    tensor = mostly_valid(
        {
            "name": st.just("image"),
            "datatype": st.just("BYTES"),
            "shape": st.just([1]),
            "data": st.just(["aGk="]),
            "parameters": st.just({"binary_data_size": 6}),
        },
        json_values,
    )
    request = mostly_valid(
        {
            "inputs": st.lists(tensor, min_size=1, max_size=2),
            "id": st.just("x"),
            "outputs": st.just([{"name": "prediction"}]),
        },
        json_values,
    )
    header = st.one_of(
        st.none(), st.sampled_from(["", "0", "9", "²", "-1", "+1", "1e3", "99999999999999999999"])
    )

    def check_request(example):
        content, binary, length = example
        body = json.dumps(content).encode()
        try:
            parsed, images = v2.parse_request(
                body + binary, str(len(body)) if length == "right" else length, 4
            )
        except RequestError:
            return
        assert isinstance(parsed, dict)
        assert all(isinstance(image, bytes) for image in images)
        try:
            v2._requested_outputs(parsed, {"prediction": None, "scores": None}, False)
        except RequestError:
            return

    fuzz(
        st.tuples(
            st.one_of(request, json_values),
            st.binary(max_size=12),
            st.one_of(header, st.just("right")),
        ),
        check_request,
    )
    fuzz(
        st.tuples(st.binary(max_size=40), header),
        lambda pair: ignore_request_errors(lambda: v2.parse_request(pair[0], pair[1], 4)),
    )


def ignore_request_errors(call):
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
def test_t41_earlier_crashes(read_files, name, format, content):
    read_files(name, json.dumps(content), format, name)


@pytest.mark.parametrize("header", ["²", "9" * 5000])
def test_t41_lengths_of_earlier_crashes(header):
    with pytest.raises(RequestError, match="does not fit the length of the body"):
        v2.parse_request(b"{}", header, 4)
