"""The words in a terminal: speed, exit codes, boxes, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from foveate.cli import main as cli
from foveate.cli.commands.predict import FOLDERS
from foveate.recipe import WORDS

PROGRAM = [sys.executable, "-c", "from foveate.cli.main import main; main()"]


def foveate(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own."""
    return subprocess.run(
        [*PROGRAM, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def run(*words: str) -> int:
    """In this process: the exit code."""
    return cli._run(list(words))


def test_help_answers_at_once_and_without_torch():
    code = "import sys; from foveate.cli.main import _run; _run(['--help']); print([m for m in ('torch','numpy','pydantic','rich') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
    assert all(
        verb in found.stdout
        for verb in (
            "fit",
            "evaluate",
            "predict",
            "soup",
            "episodes",
            "convert",
            "runs",
            "models",
            "demo",
        )
    )

    def seconds(*command: str) -> float:
        """Of processor time: what else runs on the machine is not our doing."""
        start = os.times()
        subprocess.run(command, capture_output=True, check=True)
        end = os.times()
        return end.children_user + end.children_system - start.children_user - start.children_system

    assert min(seconds(*PROGRAM, "--help") for _ in range(7)) < 0.150


@pytest.mark.parametrize(
    "verb", ["fit", "evaluate", "predict", "soup", "episodes", "convert", "runs", "models", "demo"]
)
def test_every_verb_explains_itself(verb, capsys):
    assert run(verb, "--help") == 0
    told = capsys.readouterr().out
    assert "Example: foveate" in told
    assert "--json" in told
    if verb == "fit":
        assert all(f"--{word.replace('_', '-')}" in told for word in WORDS)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["fitt", "x"], "fit"),
        (["fit", "x", "--epoch", "3"], "--epochs"),
        (["fit"], "foveate fit FOLDER"),
        (["fit", "nowhere"], "nothing at this path"),
        (["fit", "x", "--set", "training.emma=1"], "ema"),
        (["fit", "x", "--set", "training.ema=high"], "training.ema"),
        (["fit", "x", "--set", "nonsense"], "--set training.ema=0"),
        (["fit", "x", "--epochs", "many"], "many"),
        (["fit", "x", "--epochs", "0"], "training.epochs"),
        (["fit", "--recipe", "no.yaml"], "no recipe"),
        (["fit", "--resume", "runs/none"], "no run"),
        (["evaluate", "runs/none"], "no run"),
        (["predict", "runs/none"], "Missing argument"),
        (["runs", "nowhere"], "no folder"),
        (["models", "resnett18"], "resnet18"),
    ],
)
def test_wrong_words_exit_with_2_and_a_hint(words, hint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    told = capsys.readouterr().err
    assert hint in " ".join(told.replace("│", " ").split())
    assert "Traceback" not in told
    assert not list(tmp_path.iterdir())


def test_a_bug_is_called_a_bug(capsys, monkeypatch):
    monkeypatch.setattr("foveate.api.runs.runs", lambda folder: 1 / 0)
    monkeypatch.delenv("FOVEATE_DEBUG", raising=False)
    assert run("runs") == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    monkeypatch.setenv("FOVEATE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run("runs")


def test_t27_names_that_look_like_markup_or_cannot_be_printed(stripes, tmp_path):
    odd = tmp_path / "[bold]ünï🙂"
    found = foveate("fit", str(odd), PYTHONIOENCODING="ascii", COLUMNS="250")
    assert found.returncode == 2
    assert "[bold]" in found.stderr
    assert "Traceback" not in found.stderr


def test_version():
    assert foveate("--version").stdout.startswith("foveate 0.")


def test_the_whole_story(stripes, tmp_path, capsys, monkeypatch):
    """fit, evaluate, predict and runs as a user types them, on a network without weights."""
    monkeypatch.chdir(tmp_path)
    network = [
        "--backbone",
        "test_efficientnet",
        "--weights",
        "none",
        "--size",
        "32",
        "--device",
        "cpu",
    ]
    assert run("fit", str(stripes), *network, "--json") == 0
    told = capsys.readouterr()
    found = json.loads(told.out.splitlines()[-1])
    assert len(told.out.splitlines()) == 1
    assert found["run"].startswith("runs")
    assert 0 <= found["accuracy"] <= 1
    assert "random, as asked" in told.err

    assert run("evaluate", found["run"], str(stripes), "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out.splitlines()[-1])["count"] == 32
    assert "were trained on" in told.err

    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert run("predict", found["run"], str(stripes / "lying"), "broken.png", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[-1] == {"run": found["run"], "images": 17, "skipped": 1}
    assert rows[0]["answer"] in ("lying", "upright")
    assert abs(sum(rows[0]["scores"].values()) - 1) < 1e-5
    assert "error" in rows[16]

    assert (
        run("predict", found["run"], str(stripes / "lying"), "--format", "csv", "--out", "a.csv")
        == 0
    )
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0].startswith("path,answer,confidence")
    assert len(lines) == 17

    assert run("predict", found["run"], "broken.png", "--strict") == 1
    capsys.readouterr()
    assert run("runs", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["runs"][0]["run"] == found["run"]


def test_a_list_of_paths_on_stdin_and_a_reader_that_leaves(stripes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        "--backbone",
        "test_efficientnet",
        "--weights",
        "none",
        "--size",
        "32",
        "--device",
        "cpu",
    ]
    assert run("fit", str(stripes), *words, "--out", "run") == 0
    capsys.readouterr()
    listed = "\n".join(str(path) for path in sorted((stripes / "lying").iterdir()))
    found = subprocess.run(
        [*PROGRAM, "predict", "run", "-"], input=listed, capture_output=True, text=True, timeout=120
    )
    assert len(found.stdout.splitlines()) == 16
    program = " ".join(f"'{word}'" for word in PROGRAM)
    command = f"set -o pipefail; {program} predict run '{stripes}' '{stripes}' | head -1"
    left = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert left.returncode == 0
    assert "Traceback" not in left.stderr
    assert "Broken" not in left.stderr


def test_models_lists_names_with_their_facts(capsys):
    assert run("models", "efficientnet_lite0", "--json") == 0
    cards = json.loads(capsys.readouterr().out.splitlines()[-1])["models"]
    card = next(card for card in cards if card["name"] == "tf_efficientnet_lite0")
    assert card["offline"]
    assert card["licence"] == "apache-2.0"
    assert 3e6 < card["parameters"] < 4e6


def test_the_folders_that_answers_can_fill_are_those_that_can_be_written():
    from foveate.inference.writers import FORMS

    assert (
        list(FORMS) == FOLDERS
    )  # the words are named twice, because predict --help imports nothing heavy
