"""The cache folder: its size is bounded, and it is shown and cleared."""

from __future__ import annotations

import os

import pytest

import foveate
from foveate.errors import UsageError
from foveate.utils.cache import cache_folder, limit_cache


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Three files of 1,000 bytes, the first of which was used last, and one of somebody else."""
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    cache_folder().mkdir()
    made = [cache_folder() / f"{number}.safetensors" for number in range(3)]
    for age, file in enumerate(made):
        file.write_bytes(bytes(1000))
        os.utime(file, (10**9 - age, 10**9 - age))
    (cache_folder() / "notes.txt").write_text("kept")
    return made


def test_the_files_that_were_not_used_for_longest_are_deleted(files):
    limit_cache(2500)
    assert [file.exists() for file in files] == [True, True, False]
    limit_cache(0)
    assert [entry.name for entry in cache_folder().iterdir()] == ["notes.txt"]


def test_the_cache_is_shown_and_cleared(files, capsys, monkeypatch):
    shown = foveate.cache()
    assert [row[0] for row in shown.rows] == [file.name for file in files]
    assert shown.numbers()["bytes"] == 3000
    monkeypatch.setenv("FOVEATE_CACHE_GB", "0.002")
    assert "3 files, 0.0 MB of at most 2.0 MB" in foveate.cache().lines()[0]
    (cache_folder() / "4.7.tmp").touch()
    assert foveate.cache(clear=True).deleted == (4, 3000)
    assert [entry.name for entry in cache_folder().iterdir()] == ["notes.txt"]


def test_a_cache_that_does_not_exist_is_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "none"))
    assert foveate.cache().entries == []
    assert foveate.cache(clear=True).deleted == (0, 0)


@pytest.mark.parametrize("size", ["x", "-1", "inf", "nan"])
def test_a_size_that_is_none_is_refused(monkeypatch, size):
    monkeypatch.setenv("FOVEATE_CACHE_GB", size)
    with pytest.raises(UsageError, match="FOVEATE_CACHE_GB"):
        foveate.cache()
