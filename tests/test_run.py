"""The run folder: atomic writes, one writer, nothing overwritten, damage detected."""

from __future__ import annotations

import json
import os
import socket

import pytest
import torch

from foveate.api.runs.core import _best_score, list_runs
from foveate.errors import DiskFull, RunError, UsageError
from foveate.messages import Message
from foveate.recipe import Recipe
from foveate.run.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from foveate.run.folder import Run
from foveate.types import Decision
from foveate.utils import files
from foveate.utils.files import atomic_write, write_error
from foveate.utils.paths import without_surrogates
from helpers import without_privileges


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(tmp_path / "run", "x")


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint({"a": torch.full((1000,), float(step))}, {"step": step})


def test_run_names_count_up_and_existing_folders_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        run = Run.create(None, "cats")
        assert run.folder.name == f"cats-{number}"
    (run.folder / "file").touch()
    with pytest.raises(UsageError, match="already exists"):
        Run.create(run.folder, "x")


def test_t10_a_failed_write_keeps_the_old_file(run, monkeypatch):
    run.write_text("note.txt", "old")

    def raise_disk_full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_flush", raise_disk_full)
    with pytest.raises(DiskFull, match=r"No space left.*MB free"):
        run.write_text("note.txt", "new")
    assert (run.folder / "note.txt").read_text() == "old"
    assert [entry.name for entry in run.folder.iterdir()] == ["note.txt"]


def test_an_error_of_a_write_says_what_helps(run):
    denied = PermissionError(13, "Permission denied")
    error = write_error(run.folder / "a.csv", denied)
    assert type(error) is RunError
    assert error.why == "permission denied"
    assert "free" not in str(error)
    full = OSError(28, "No space left on device")
    assert write_error(run.folder / "a.csv", full).hint == "free some space"
    run.write_recipe(Recipe())
    hint = write_error(run.folder / "checkpoints" / "a", full).hint
    assert hint == f"free some space, then resume the run with --resume {run.folder}"
    (run.folder / "folder").mkdir()
    (run.folder / "folder" / "x").touch()
    with pytest.raises(RunError, match=r"directory|not empty"):
        run.write_text("folder", "x")


def test_t28_a_folder_without_permission_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    for path in (tmp_path / "closed", tmp_path / "closed" / "a" / "b"):
        with (
            without_privileges(),
            pytest.raises(UsageError, match="closed' cannot be written to: permission denied"),
        ):
            files.require_free(path)


def test_a_path_that_cannot_exist_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file' is a file, not a folder"):
        files.require_free(tmp_path / "file" / "x" / "y")
    with pytest.raises(UsageError, match="the file already exists"):
        files.require_free(tmp_path / "file")
    with pytest.raises(UsageError, match="name too long"):
        files.require_free(tmp_path / ("x" * 300))
    files.require_writable(tmp_path / "file")
    files.require_free(tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_existing_run_is_refused_with_what_can_be_done(run):
    run.write_recipe(Recipe())
    with pytest.raises(UsageError, match=r"unfinished run.*--resume .* to continue it, or --out"):
        Run.require_free(run.folder)
    assert list_runs(run.folder.parent).numbers()["runs"][0]["images"] is None
    run.finish({})
    with pytest.raises(UsageError, match="finished run") as error:
        Run.require_free(run.folder)
    assert "--resume" not in str(error.value)


def test_names_that_are_not_utf8_are_written_as_escapes(run):
    run.write_text("a.txt", "caf\udcc3\udca9 \udcff")  # as Python reads names, without UTF-8
    assert (run.folder / "a.txt").read_text(encoding="utf-8") == "café \\xff"
    assert without_surrogates("\ud800") == "\\ud800"  # stands for no byte


def test_t12_the_newest_complete_checkpoint_is_used(run):
    for step in range(1, 5):
        save_checkpoint(run.folder, f"step-{step:03d}", checkpoint(step))
    kept = sorted(path.name for path in (run.folder / "checkpoints").iterdir())
    assert kept == ["step-003", "step-004"]
    assert newest_checkpoint(run.folder, pytest.fail).state == {"step": 4}
    state = run.folder / "checkpoints" / "step-004" / "state.json"
    state.write_text(state.read_text().replace("4", "5"))
    warnings = []
    assert newest_checkpoint(run.folder, warnings.append).state == {"step": 3}
    assert "step-004 is damaged" in warnings[0]


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "flipped"])
def test_t12_any_damage_is_detected(run, name, damage):
    save_checkpoint(run.folder, "step-1", checkpoint(1))
    save_checkpoint(run.folder, "step-2", checkpoint(2))
    file = run.folder / "checkpoints" / "step-2" / name
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(
            content[: len(content) // 2]
            if damage == "cut"
            else bytes([content[0] ^ 255]) + content[1:]
        )
    assert newest_checkpoint(run.folder, lambda _: None).state == {"step": 1}


def test_t13_one_writer_at_a_time(run):
    with run.locked():
        assert json.loads((run.folder / "lock.json").read_text())["pid"] == os.getpid()
        with pytest.raises(RunError, match=f"in use.*process {os.getpid()} on "), run.locked():
            pass
        row = {"host": socket.gethostname(), "pid": 10**30}  # more than any process has
        (run.folder / "lock.json").write_text(json.dumps(row))
        with pytest.raises(RunError, match="in use"), run.locked():
            pass
    assert not (run.folder / "lock.json").exists()


@pytest.mark.parametrize("content", ["[1]", "null", '{"numbers": {}}', '"x"', "[[[["])
def test_t58_what_is_odd_in_a_run_is_named(run, content):
    for name, read in (("choices.json", run.decisions), ("environment.json", run.environment)):
        (run.folder / name).write_text(content)
        with pytest.raises(RunError, match=name):
            read()
    scores = run.folder / "evaluations" / "test" / "scores.json"
    scores.parent.mkdir(parents=True)
    scores.write_text(content)
    with pytest.raises(RunError, match=r"scores\.json"):
        _best_score(run)


@pytest.mark.parametrize("content", ["{", '{"host": "elsewhere", "pid": 1}', '{"pid": "x"}'])
def test_t13_the_lock_file_of_a_dead_process_locks_nothing(run, content):
    (run.folder / "lock.json").write_text(content)
    with run.locked():
        assert json.loads((run.folder / "lock.json").read_text())["pid"] == os.getpid()


def test_t12_a_truncated_log_line_is_ignored(run):
    run.append_metrics({"epoch": 1, "a": 1})
    run.append_metrics({"epoch": 1, "a": 2})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "a"')
    assert run.read_metrics() == [{"epoch": 1, "a": 2}]
    run.append_metrics({"epoch": 2, "a": 3})  # is not appended to the truncated line
    assert run.read_metrics() == [{"epoch": 1, "a": 2}, {"epoch": 2, "a": 3}]


def test_t10_an_error_while_writing_leaves_no_file(tmp_path):
    with pytest.raises(KeyError), atomic_write(tmp_path / "x"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_reasons_of_decisions_are_stored_in_english_and_can_be_translated(run):
    steps = Message("choice.too_short", "{steps} steps: too short", steps=18)
    run.record([Decision("augment.policy", "none", steps), Decision("device", "cpu", "as it is")])
    rows = run.read_json("choices.json")
    assert [row["reason"] for row in rows] == ["18 steps: too short", "as it is"]
    first, second = run.decisions()
    assert (first.reason, second.reason) == (steps, "as it is")
    assert first.reason.in_language("zh") == "18 步：太少，数据增强无益"
