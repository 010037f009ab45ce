"""The run folder: whole or absent, one writer, nothing overwritten, damage seen."""

from __future__ import annotations

import json
import os

import pytest
import torch

from foveate.errors import DiskFull, RunError, UsageError
from foveate.run.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from foveate.run.folder import Run
from foveate.utils import files as rooms
from foveate.utils.files import atomic_write


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(tmp_path / "run", "x")


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint({"a": torch.full((1000,), float(step))}, {"step": step})


def test_names_count_up_and_taken_folders_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        made = Run.create(None, "cats")
        assert made.folder.name == f"cats-{number}"
    (made.folder / "file").touch()
    with pytest.raises(UsageError, match="already exists"):
        Run.create(made.folder, "x")


def test_t10_a_write_that_fails_leaves_what_was_there(run, monkeypatch):
    run.write_text("note.txt", "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rooms, "_flush", full)
    with pytest.raises(DiskFull, match=r"No space left.*MB free"):
        run.write_text("note.txt", "new")
    assert (run.folder / "note.txt").read_text() == "old"
    assert [entry.name for entry in run.folder.iterdir()] == ["note.txt"]


def test_t12_the_newest_whole_checkpoint_counts(run):
    for step in range(1, 5):
        save_checkpoint(run.folder, f"step-{step:03d}", checkpoint(step))
    kept = sorted(path.name for path in (run.folder / "checkpoints").iterdir())
    assert kept == ["step-003", "step-004"]
    assert newest_checkpoint(run.folder, pytest.fail).state == {"step": 4}
    state = run.folder / "checkpoints" / "step-004" / "state.json"
    state.write_text(state.read_text().replace("4", "5"))
    said = []
    assert newest_checkpoint(run.folder, said.append).state == {"step": 3}
    assert "step-004 is damaged" in said[0]


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["cut", "gone", "flipped"])
def test_t12_any_damage_is_seen(run, name, harm):
    save_checkpoint(run.folder, "step-1", checkpoint(1))
    save_checkpoint(run.folder, "step-2", checkpoint(2))
    file = run.folder / "checkpoints" / "step-2" / name
    content = file.read_bytes()
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(
            content[: len(content) // 2]
            if harm == "cut"
            else bytes([content[0] ^ 255]) + content[1:]
        )
    assert newest_checkpoint(run.folder, lambda _: None).state == {"step": 1}


def test_t13_one_writer_at_a_time(run):
    with run.locked():
        assert json.loads((run.folder / "lock.json").read_text())["pid"] == os.getpid()
        with pytest.raises(RunError, match=f"in use.*process {os.getpid()} on "), run.locked():
            pass
    assert not (run.folder / "lock.json").exists()


@pytest.mark.parametrize("left", ["{", '{"host": "elsewhere", "pid": 1}', '{"pid": "x"}'])
def test_t13_a_note_that_a_dead_process_left_locks_nothing(run, left):
    (run.folder / "lock.json").write_text(left)
    with run.locked():
        assert json.loads((run.folder / "lock.json").read_text())["pid"] == os.getpid()


def test_t12_a_log_line_cut_off_is_passed_over(run):
    run.append_metrics({"epoch": 1, "a": 1})
    run.append_metrics({"epoch": 1, "a": 2})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "a"')
    assert run.read_metrics() == [{"epoch": 1, "a": 2}]
    run.append_metrics({"epoch": 2, "a": 3})  # is not lost to the line before
    assert run.read_metrics() == [{"epoch": 1, "a": 2}, {"epoch": 2, "a": 3}]


def test_t10_an_error_inside_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), atomic_write(tmp_path / "x"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
