"""Malicious files: pickles, safetensors, archives and YAML are refused and not executed.

The ids T18 to T57 are those of docs/trust.md.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

import foveate
from foveate.api.fit.core import fit_recipe
from foveate.cli import main as cli
from foveate.data import stored_images
from foveate.data.streaming import Catalog, find_entries
from foveate.deploy.runtime import open_exported
from foveate.errors import BrokenImage, DataError, FoveateError, UsageError, WeightsError
from foveate.images import codec
from foveate.modeling import weights
from foveate.modeling.weights import read_tensors
from foveate.recipe import load_recipe, with_settings
from foveate.run.folder import Run
from foveate.utils.csv_cells import original_cell
from foveate.utils.files import write_rows
from foveate.utils.validation import parse_assignment

SOURCE = Path(__file__).parents[1] / "src" / "foveate"

# --- pickles


class CallOnUnpickling:
    """An object whose pickle calls `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def touch_code(marker):
    return f"import pathlib; pathlib.Path({str(marker)!r}).touch()"


def exec_through_memo(marker):
    """A pickle that calls builtins.exec through the memo, which hides the call from scanners."""
    code = touch_code(marker).encode()
    return (
        b"\x80\x04\x8c\x08builtins\x94\x8c\x04exec\x94\x93\x94h\x020"
        + b"h\x02\x8c" + bytes([len(code)]) + code + b"\x94\x85\x94R."
    )  # fmt: skip


def malicious_pickles(marker):
    """Map file names to contents that run code when they are unpickled."""
    import os

    system, code = (
        CallOnUnpickling(os.system, f"touch {marker}"),
        CallOnUnpickling(exec, touch_code(marker)),
    )
    nested = CallOnUnpickling(pickle.loads, pickle.dumps(code))
    zipped, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(2), "b": code}}, zipped)
    torch.save({"a": system}, legacy, _use_new_zipfile_serialization=False)
    flagged = bytearray(zipped.getvalue())
    position = flagged.index(b"PK\x01\x02")
    flagged[position + 8] |= 1  # "encrypted", which some scanners skip and some readers ignore
    array = io.BytesIO()
    np.save(array, np.array([code], dtype=object), allow_pickle=True)
    return {
        "system.pt": pickle.dumps(system),
        "zipped.pth": zipped.getvalue(),
        "old.bin": legacy.getvalue(),
        "memo.pt": exec_through_memo(marker),
        "nested.pt": pickle.dumps({"a": nested}),
        "numpy.pt": b"cnumpy\n__builtins__\n." + pickle.dumps(code),
        "flag.pt": bytes(flagged),
        "array.bin": array.getvalue(),
        "renamed.safetensors": pickle.dumps(code),
        "zipped.safetensors": zipped.getvalue(),
    }


_OPENER = """
import sys
code, target, *paths = sys.argv[1:]
for path in paths:  # the code of Foveate's reading process, for all files in one process
    sys.argv = ["-c", path, target]
    try:
        exec(code, {})
        print("read")
    except Exception:
        print("refused")
"""


def test_t33_pickles_are_refused_and_not_run(tmp_path):
    marker = tmp_path / "owned"
    files = {name: tmp_path / name for name in malicious_pickles(marker)}
    for name, content in malicious_pickles(marker).items():
        files[name].write_bytes(content)

    for name in ("zipped.pth", "renamed.safetensors", "zipped.safetensors"):
        with pytest.raises(WeightsError, match=r"more than tensors|damaged"):
            read_tensors(files[name])
    program = [
        sys.executable,
        "-c",
        _OPENER,
        weights._READ_TORCH_FILE,
        str(tmp_path / "out"),
        *map(str, files.values()),
    ]
    process = subprocess.run(program, capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["refused"] * len(files)
    assert not (tmp_path / "out").exists()
    assert not marker.exists()
    for name in ("memo.pt", "system.pt"):  # these pickles do run code when they are loaded
        assert any(
            code.name == "REDUCE" for code, *_ in pickletools.genops(files[name].read_bytes())
        )
        pickle.loads(files[name].read_bytes())
        assert marker.exists()
        marker.unlink()


def test_t33_exported_files_and_runs_accept_no_pickle(tmp_path):
    marker = tmp_path / "owned"
    content = pickle.dumps(CallOnUnpickling(exec, touch_code(marker)))
    for name in ("a.onnx", "a.xml"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FoveateError):
            open_exported(tmp_path / name)
    run = Run.create(tmp_path / "run", "x")
    (run.folder / "finished.json").write_bytes(content)
    with pytest.raises(FoveateError):
        run.outcome()
    assert not marker.exists()


# --- safetensors


def safetensors_file(header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor_entry(start=0, end=8, shape=(2,), kind="F32"):
    return {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}


ATTACKS = {
    "empty": b"",
    "short": b"\x01\x02",
    "longer than the file": safetensors_file({"a": tensor_entry()}, bytes(8), length=2**62),
    "negative length": struct.pack("<q", -1) + b"{}",
    "not json": safetensors_file(b"{'a': 1}"),
    "not utf-8": safetensors_file(b'{"\xff": 1}'),
    "twice": safetensors_file(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
    "deep": safetensors_file(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "many": safetensors_file(
        b"{" + b",".join(b'"%d":0' % number for number in range(380_000)) + b"}"
    ),
    "huge": safetensors_file(b" " * 60_000_000),
    "outside": safetensors_file({"a": tensor_entry(0, 800, (200,))}, bytes(8)),
    "overlap": safetensors_file({"a": tensor_entry(0, 8), "b": tensor_entry(4, 12)}, bytes(12)),
    "hole": safetensors_file({"a": tensor_entry(0, 8), "b": tensor_entry(16, 24)}, bytes(24)),
    "behind": safetensors_file({"a": tensor_entry()}, bytes(64)),
    "backwards": safetensors_file({"a": tensor_entry(8, 0)}, bytes(8)),
    "below zero": safetensors_file({"a": tensor_entry(-8, 0)}, bytes(8)),
    "overflow": safetensors_file({"a": tensor_entry(0, 8, (2**40, 2**40))}, bytes(8)),
    "other size": safetensors_file({"a": tensor_entry(0, 8, (3,))}, bytes(8)),
    "other type": safetensors_file({"a": tensor_entry(0, 8, (2,), "Q9")}, bytes(8)),
    "a list": safetensors_file([1, 2]),
}

_READER = """
import json, resource, sys, time
from pathlib import Path
import safetensors.torch
from foveate.errors import WeightsError
from foveate.modeling.weights import read_tensors
for path in sorted(Path(sys.argv[1]).iterdir()):
    start, before, message = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, None
    try:
        read_tensors(path)
    except WeightsError as error:
        message = str(error)
    row = [path.stem, message, time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]
    print(json.dumps(row), flush=True)
"""


def test_t34_bad_headers_are_refused_at_once_and_in_little_memory(tmp_path):
    """In a separate process, whose peak memory (kB) is read before and after each file."""
    for name, content in ATTACKS.items():
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    process = subprocess.run(
        [sys.executable, "-c", _READER, str(tmp_path)], capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in process.stdout.splitlines()]
    assert {row[0] for row in rows} == set(ATTACKS)
    assert [row[0] for row in rows if row[1] is None] == []
    assert max(row[2] for row in rows) < 1.0
    assert max(row[3] for row in rows) < 50_000 + 30_000  # "many" is a header of 4 MB of JSON


def test_t34_an_index_cannot_name_other_files(tmp_path):
    """Weights are one file: an index of parts, which could name any path, is not followed."""
    save_file({"a": torch.zeros(2)}, tmp_path / "part.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "../../../etc/passwd"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match="not a weights file"):
        read_tensors(tmp_path / "model.safetensors.index.json")


# --- archives


def encoded_image(side=16):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "teal").save(buffer, format="PNG")
    return buffer.getvalue()


def write_shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
            info.linkname = content.decode() if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            archive.addfile(info, io.BytesIO(content) if kind == tarfile.REGTYPE else None)
    return path


def test_t36_shard_members_cannot_escape(tmp_path):
    """Parent paths, links, devices: nothing is unpacked, only bytes of the shard are read."""
    members = [
        ("../../climbs.png", tarfile.REGTYPE, encoded_image()),
        ("/etc/absolute.png", tarfile.REGTYPE, encoded_image()),
        ("good.png", tarfile.REGTYPE, encoded_image()),
        ("link.png", tarfile.SYMTYPE, b"/etc/passwd"),
        ("hard.png", tarfile.LNKTYPE, b"../../outside.png"),
        ("pipe.png", tarfile.FIFOTYPE, b""),
        ("null.png", tarfile.CHRTYPE, b""),
        ("notes.txt", tarfile.REGTYPE, b"text"),
    ]
    (tmp_path / "in").mkdir()
    path = write_shard(tmp_path / "in" / "a.tar", members)
    entries = list(find_entries(path))
    assert [entry.key for entry in entries] == [
        "a.tar/../../climbs.png",
        "a.tar//etc/absolute.png",
        "a.tar/good.png",
    ]
    assert all(entry.path == path for entry in entries)
    assert all(entry.content() == encoded_image() for entry in entries)
    assert [file.name for file in tmp_path.iterdir()] == ["in"]
    assert [file.name for file in (tmp_path / "in").iterdir()] == ["a.tar"]


def test_t36_bombs_and_many_members_cost_little(tmp_path, monkeypatch):
    """A member that claims a terabyte, compression, which is refused, and many members."""
    huge = bytearray(
        write_shard(
            tmp_path / "a.tar", [("huge.png", tarfile.REGTYPE, encoded_image())]
        ).read_bytes()
    )
    huge[124:136] = b"\x80" + (2**40).to_bytes(11, "big")
    huge[148:156] = b" " * 8
    huge[148:156] = b"%06o\0 " % sum(huge[:512])
    (tmp_path / "huge.tar").write_bytes(huge)
    with pytest.raises(DataError, match="unexpected end of data"):
        list(find_entries(tmp_path / "huge.tar"))
    with tarfile.open(tmp_path / "zipped.tar", "w:gz") as archive:
        archive.add(tmp_path / "a.tar", "a.png")
    with pytest.raises(DataError, match="without compression"):
        list(find_entries(tmp_path / "zipped.tar"))
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("../../cat/1.png", encoded_image())
    with pytest.raises(DataError, match="not a source of images"):
        list(find_entries(tmp_path / "data.zip"))
    count = 20_000
    write_shard(
        tmp_path / "many.tar", ((f"{number}.png", tarfile.REGTYPE, b"x") for number in range(count))
    )
    start = time.process_time()  # CPU time: the computer may be busy
    catalog = Catalog.write(tmp_path / "list.jsonl", find_entries(tmp_path / "many.tar"))
    assert (len(catalog), catalog.starts.nbytes) == (count, 8 * (count + 1))
    assert time.process_time() - start < 20
    monkeypatch.setattr(stored_images, "MAX_MEMBER_BYTES", 10)
    with pytest.raises(BrokenImage):
        codec.read_image(catalog[0].content())
    assert list(find_entries(tmp_path / "a.tar")) == []  # above the limit of one image


# --- YAML, and code that runs what it reads


def test_t37_no_module_evaluates_text():
    """Read from syntax trees: no eval, exec, compile, shell, unsafe YAML loader or pickle."""
    for file in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & {
                    "pickle",
                    "dill",
                    "joblib",
                    "marshal",
                    "shelve",
                }, file
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in (
                "eval",
                "exec",
                "compile",
                "__import__",
                "os.system",
                "os.popen",
                "pickle.loads",
                "pickle.load",
            ), file
            assert called not in (
                "yaml.load",
                "yaml.unsafe_load",
                "yaml.full_load",
                "yaml.load_all",
                "numpy.load",
            ), file
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert keywords.get("shell", "False") == "False", file
            assert keywords.get("trust_remote_code", "False") == "False", file
            assert keywords.get("allow_pickle", "False") == "False", file
            if called == "np.load":
                assert keywords.get("allow_pickle") == "False", file
            if called == "torch.load":
                assert keywords.get("weights_only") == "True", file


def test_t18_only_images_and_boxes_are_made_finite():
    """nan_to_num would hide weights that are NaN: only the readers of images call it."""
    users = {
        file.relative_to(SOURCE).as_posix()
        for file in SOURCE.rglob("*.py")
        if "nan_to_num" in file.read_text(encoding="utf-8")
    }
    assert users == {"images/nifti.py", "images/pixels.py", "utils/rle.py"}


BILLION_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "training: !!python/object/apply:os.system ['touch owned']\n",
        "training: !!python/name:os.system\n",
        "data: !!python/object/new:os.system ['touch owned']\n",
        "seed: !!timestamp nonsense\n",
        "seed: !!bool nonsense\n",
        "seed: &a [*a]\n",
        BILLION_LAUGHS,
        "[" * 50_000,
        "? [a, b]\n: 1\n",
        "1: 2\n",
        "data: {1: 2}\n",
        "- a\n",
        "\x00",
    ],
)
def test_t37_a_recipe_is_data(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(text, encoding="utf-8")
    start = time.process_time()
    with pytest.raises(UsageError) as error:
        load_recipe(Path("recipe.yaml"))
    assert time.process_time() - start < 5
    assert len(str(error.value)) < 1000
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_t37_a_setting_is_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in ("!!python/object/apply:os.system ['touch owned']", "&a [*a]", "!!timestamp x"):
        with pytest.raises(UsageError, match="not YAML"):
            parse_assignment(f"training.lr={value}")
    assert list(tmp_path.iterdir()) == []


def test_t37_written_yaml_has_no_references(quick):
    """A list that occurs twice is written twice."""
    from foveate.utils.safe_yaml import parse_yaml, to_yaml

    shared = ["a", "b"]
    text = to_yaml({"one": shared, "two": shared})
    assert "&" not in text
    assert parse_yaml(text) == yaml.safe_load(text) == {"one": shared, "two": shared}
    assert parse_yaml(quick.to_yaml()) == quick.model_dump(mode="json")


def test_t34_the_limit_of_a_header_is_far_above_real_ones():
    """The largest networks have some thousand tensors of about 120 header bytes each."""
    assert weights._MAX_HEADER > 25_000 * 120


# --- what a table names, and what a spreadsheet would run


@pytest.fixture
def table_beside_its_images(stripes, tmp_path):
    """A folder with a table that names the images of the folder beside it, and an absolute path."""
    images = sorted(stripes.rglob("*.png"))
    folder = tmp_path / "tables"
    folder.mkdir()
    up = Path(os.path.relpath(stripes, folder))
    rows = [f"{up / image.relative_to(stripes)},{image.parent.name}" for image in images[:-1]]
    rows.append(f"{images[-1]},{images[-1].parent.name}")
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows]))
    return folder, len(images)


def test_t56_paths_that_leave_the_data_are_refused_unless_allowed(
    table_beside_its_images, quick, tmp_path, monkeypatch, capsys
):
    folder, count = table_beside_its_images
    monkeypatch.chdir(folder)
    settings = {"data.path": "labels.csv", "training.epochs": 1}
    with pytest.raises(DataError, match=rf"outside of.*{count} images.*--allow-outside"):
        fit_recipe(with_settings(quick, settings), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    assert cli._run(["check", "labels.csv"]) == 4
    assert "the data name images outside of their folder" in capsys.readouterr().out
    cli._run(["check", "labels.csv", "--allow-outside", "--no-plan"])
    assert "next: foveate fit labels.csv --allow-outside" in capsys.readouterr().out
    allowed = with_settings(quick, {**settings, "data.allow_outside": True})
    run = fit_recipe(allowed, tmp_path / "run").run
    monkeypatch.chdir(tmp_path)  # the names of the images are the same from everywhere
    own = foveate.evaluate(run)
    assert own.scores.numbers["accuracy"].count > 0
    with pytest.raises(DataError, match="outside"):
        foveate.convert(write_boxes_outside(tmp_path), "yolo", tmp_path / "converted")


def write_boxes_outside(folder):
    """A table of boxes whose image is a file of the machine."""
    inner = folder / "boxes"
    inner.mkdir()
    Image.new("RGB", (20, 20)).save(folder / "private.png")
    columns = "path,label,x1,y1,x2,y2"
    (inner / "boxes.csv").write_text(f"{columns}\n../private.png,cat,1,1,9,9\n")
    return inner


def test_t57_no_cell_of_a_table_is_a_formula(tmp_path):
    names = ["=1+1", "+x", "-x", "@sum", "\tx", "'=1", "''-", "plain", "'quoted'", "-1.5", ""]
    write_rows(tmp_path / "names.csv", ["name"], [[name] for name in names])
    with (tmp_path / "names.csv").open(newline="") as file:
        cells = [row["name"] for row in csv.DictReader(file)]
    assert [cell for cell in cells if cell[:1] in tuple("=+-@\t")] == ["-1.5"]
    assert [original_cell(cell) for cell in cells] == names


def test_t57_a_run_reads_back_what_it_wrote(tmp_path):
    run = Run.create(tmp_path / "run", "x")
    row = {
        "path": "=cmd/1.png",
        "split": "train",
        "label": "=cmd",
        "sha256": "0",
        "group": "",
    }
    run.write_splits([row])
    assert run.splits() == [row]
    assert ",=cmd" not in (run.folder / "splits.csv").read_text()
