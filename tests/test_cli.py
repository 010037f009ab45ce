"""The command line: speed, help, exit codes, errors, logging, JSON."""

from __future__ import annotations

import inspect
import io
import json
import logging
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import foveate as package
from conftest import make_stripes_folder
from foveate.cli import main as cli
from foveate.cli.command import parse_docstring
from foveate.cli.commands import command_names, get_command
from foveate.cli.commands.predict import FOLDERS
from foveate.errors import UsageError
from foveate.recipe import SHORT_OPTIONS
from foveate.utils import console, files, log
from foveate.utils.invocation import (
    Invocation,
    current_invocation,
    entry_point,
    invocation,
    shell_command,
)

PROGRAM = [sys.executable, "-c", "from foveate.cli.main import main; main()"]
WIDTHS = (40, 80, 200)


def run_in_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a new process."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def run_in_terminal(columns: int, *command: str) -> str:
    """Return the output of a command in a terminal of a width, without escape codes."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment |= {"TERM": "xterm-256color"}
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, close_fds=True
    )
    os.close(terminal)
    output = b""
    try:
        while chunk := os.read(controller, 65536):
            output += chunk
    except OSError:  # on Linux the end of a terminal is an error
        pass
    process.wait(60)
    os.close(controller)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode()).replace("\r", "")


def run(*arguments: str) -> int:
    """Run the command line in this process; returns the exit code."""
    return cli._run(list(arguments))


def test_help_is_fast_and_imports_no_torch():
    code = "import sys; from foveate.cli.main import _run; _run(['--help']); print([m for m in ('torch','numpy','pydantic','rich') if m in sys.modules])"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.splitlines()[-1] == "[]"
    assert "Usage: foveate COMMAND" in process.stdout
    for name in command_names():
        assert re.search(rf"^  {name} +[A-Z]", process.stdout, re.MULTILINE)

    def cpu_seconds(*command: str) -> float:
        """CPU time, which does not depend on other processes."""
        start = os.times()
        subprocess.run(command, capture_output=True, check=True)
        end = os.times()
        return end.children_user + end.children_system - start.children_user - start.children_system

    assert min(cpu_seconds(*PROGRAM, "--help") for _ in range(7)) < 0.150


def test_help_of_every_command_imports_no_torch():
    code = (
        "import sys; from foveate.cli.main import _run; from foveate.cli.commands import command_names\n"
        "for name in command_names(): print('=' * 9, name); assert _run([name, '--help']) == 0\n"
        "print('=' * 9, [m for m in ('torch', 'numpy', 'rich') if m in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    *pages, loaded = process.stdout.split("=" * 9)[1:]
    assert loaded.strip() == "[]"
    assert [page.split()[0] for page in pages] == command_names()
    for page in pages:
        assert "Example: foveate" in page
        assert "--json" in page
    fit = next(page for page in pages if page.split()[0] == "fit")
    assert all(f"--{name.replace('_', '-')}" in fit for name in SHORT_OPTIONS)


@pytest.mark.parametrize("name", command_names())
def test_an_option_is_declared_once(name):
    """Options, arguments, defaults and help come from the function; all are described."""
    command = get_command(name)
    described = parse_docstring(inspect.unwrap(command.function)).parameters
    signature = inspect.signature(command.function)
    assert list(described) == list(signature.parameters)
    params = {param.name: param for param in command.build(name).params}
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            assert command.recipe_options
            continue
        param = params[parameter.name]
        variadic = parameter.kind is parameter.VAR_POSITIONAL
        assert param.required == (parameter.default is parameter.empty and not variadic)
        if param.param_type_name == "option" and parameter.name != "settings":
            assert param.required or param.default == parameter.default
            assert param.help[0].isupper() or param.help.startswith("auto,")
        help_ = getattr(param, "help", "") or ""
        assert help_.count("Default:") <= 1
    summary = command.docstring.summary
    assert summary[0].isupper()
    assert summary.endswith(".")


def test_public_functions_are_imported_when_they_are_used():
    code = (
        "import sys, foveate; assert 'fit' in dir(foveate); before = set(sys.modules)\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules, 'pydantic' in sys.modules)\n"
        "print(foveate.fit.__name__, 'torch' in sys.modules)\n"
        "try: foveate.fitt\n"
        "except AttributeError as error: print(error)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.splitlines() == [
        "False False False",
        "fit False",
        "module 'foveate' has no attribute 'fitt'",
    ]
    for name in package.__all__:
        assert getattr(package, name) is not None
    functions = {name for name in package.__all__ if not name.startswith("_")}
    commands = {name if name != "continue" else "continue_" for name in command_names()}
    assert functions == (commands | {"load"}) - {"serve"}


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["fitt", "x"], "fit"),
        (["fit", "x", "--epoch", "3"], "--epochs"),
        (["fit"], "foveate fit FOLDER"),
        (["fit", "nowhere"], "the path does not exist"),
        (["fit", "x", "--set", "training.emma=1"], "ema"),
        (["fit", "x", "--set", "training.ema=high"], "training.ema"),
        (["fit", "x", "--set", "nonsense"], "--set training.ema=0"),
        (["fit", "x", "--epochs", "many"], "many"),
        (["fit", "x", "--epochs", "0"], "--epochs must be a whole number, at least 1, got 0"),
        (["fit", "x", "--minutes", "nan"], "--minutes must be a number, above 0, got nan"),
        (["fit", "x", "--size", "9999999"], "--size must be a whole number, at least 16 and at"),
        (["fit", "x", "--epochs"], "--epochs needs a value"),
        (["fit", "x", "--strict=1"], "--strict takes no value"),
        (["fit", "my", "photos"], "one argument too many: 'photos'"),
        (["fit", "x", "--optimizer", "adamm"], "--optimizer must be 'adamw', 'adam' or 'sgd', got"),
        (["fit", "x", "--optimizer", "adamm"], "did you mean 'adam' or 'adamw'?"),
        (["fit", "x", "--lang", "fr"], "--lang must be 'en' or 'zh', got 'fr'"),
        (["fit", "x", "--set", "training=3"], "training is a group of settings, got 3"),
        (["fit", "x", "--set", "tuning=3"], "tuning must be a name, got 3"),
        # names are checked before the data, which would take minutes to read
        (["fit", "x", "--tuning", "lra"], "did you mean 'lora'"),
        (["fit", "x", "--tuning", "zzzz"], "foveate fit --help lists the tunings"),
        (["fit", "x", "--task", "klassify"], "did you mean 'classify'"),
        (["fit", "x", "--format", "fldr"], "did you mean 'folder'"),
        (["fit", "x", "--backbone", "resnett18"], "did you mean 'resnet18'"),
        (["fit", "x", "--device", "cud"], "did you mean 'cuda'"),
        (["fit", "x", "--device", "cuda:99"], "CUDA device"),
        (["fit", "x", "--weights", "zzz"], "one of: auto, hub, offline, none, or a .safetensors"),
        (["fit", "x", "--set", "task.loss=focl", "--task", "classify"], "did you mean 'focal'?"),
        (["fit", "x", "--set", "tuning.rank=4", "--tuning", "probe"], "'probe' has no settings"),
        (["episodes", "x", "--device", "cud"], "did you mean 'cuda'"),
        (["retrieve", "x", "a cat", "--weights", "hubb"], "did you mean 'hub'?"),
        (["convert", "x", "--out", "y"], "--to is missing"),
        (["convert", "x", "--to", "coco"], "--out is missing"),
        (["check", "nowhere"], "the path does not exist"),
        (["pretrain", "nowhere"], "the path does not exist"),
        (["restyle", "nowhere", "nowhere"], "the path does not exist"),
        (["generate", "nowhere"], "no run at this path, and no backbone of this name"),
        (["episodes", "x", "--ways", "1"], "--ways must be a whole number, at least 2, got 1"),
        (["export", "x", "--max-drop", "nan"], "--max-drop must be a number, at least 0 and at"),
        (["predict", "x", "y", "--format", "csc"], "did you mean 'csv'?"),
        (["predict", "x", "y", "--format", "csv", "--json"], "--out FILE"),
        (["--json", "fit", "photos"], "foveate fit photos --json"),
        (["--epochs", "3", "fit", "photos"], "come after the command"),
        (["fit", "--recipe", "no.yaml"], "no recipe"),
        (["fit", "--resume", "runs/none"], "no run"),
        (["evaluate", "runs/none"], "no run"),
        (["predict", "runs/none"], "IMAGES is missing"),
        (["runs", "nowhere"], "no folder"),
        (["models", "resnett18"], "resnet18"),
    ],
)
def test_bad_arguments_exit_with_2_and_a_hint(arguments, hint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    output = capsys.readouterr().err
    assert output.startswith("error: ")
    assert hint in output
    assert "Traceback" not in output
    assert not list(tmp_path.iterdir())
    assert not re.search(
        r"Missing|Got unexpected|[Ii]nvalid value|Input should|in the range", output
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "data"],
        ["fit", "data", "--tuning", "auto"],
        ["check", "data"],
        ["pretrain", "data"],
        ["demo"],
        ["convert", "data", "--to", "coco"],
        ["predict", "run", "data"],
    ],
)
@pytest.mark.parametrize("out", ["file.txt/x", "closed/x"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_any_work(
    arguments, out, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "closed"):
        (tmp_path / name).mkdir()
    (tmp_path / "file.txt").touch()
    make = files.tempfile.mkdtemp

    def make_unless_closed(*args, dir=None, **kwargs):
        if str(dir) == "closed":  # what an administrator can write to all the same
            raise PermissionError(13, "Permission denied", str(dir))
        return make(*args, dir=dir, **kwargs)

    monkeypatch.setattr(files.tempfile, "mkdtemp", make_unless_closed)
    assert run(*arguments, "--out", out) == 2
    output = capsys.readouterr()
    problem = "'file.txt' is a file, not a folder"
    if out == "closed/x":
        problem = "the folder 'closed' cannot be written to: permission denied"
    assert problem in output.err
    assert "--out ANOTHER" in output.err or "name another folder" in output.err
    assert output.out == ""


def test_without_arguments_and_with_h_there_is_help(capsys):
    assert run() == 0
    assert run("fit", "-h") == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.startswith("Usage: foveate COMMAND")
    assert "Usage: foveate fit" in output.out


def test_ranges_are_sentences_in_the_help_of_every_command(capsys):
    for name in command_names():
        assert run(name, "--help") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert not re.search(r"\[[\d.]*<?=?x?[<>]", output)
    assert "Passes over the training images. At least 1. Default: 15." in output
    assert "Classes per episode. At least 2. Default: 5." in output


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("SIGINT", 130, "error: stopped by Ctrl-C"),
        ("SIGTERM", 143, "error: stopped by SIGTERM"),
    ],
)
def test_a_signal_before_a_training_is_reported(name, code, text, capsys, monkeypatch):
    number = getattr(signal, name)
    monkeypatch.setattr("foveate.api.runs.core.list_runs", lambda _: signal.raise_signal(number))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    try:
        assert run("runs") == code
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.strip() == text


def test_what_the_system_refuses_is_not_reported_as_a_bug(capsys, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", "runs/x")

    monkeypatch.setattr("foveate.api.runs.core.list_runs", refuse)
    monkeypatch.delenv("FOVEATE_DEBUG", raising=False)
    assert run("runs") == 1
    error = capsys.readouterr().err
    assert "permission denied\n  where: runs/x" in error
    assert "bug" not in error


@pytest.mark.parametrize(
    "call",
    [
        lambda: package.predict("run", 3),
        lambda: package.predict(3, "x"),
        lambda: package.evaluate(3),
        lambda: package.explain("run", [3]),
        lambda: package.soup(3),
        lambda: package.generate(3),
        lambda: package.load(None),
        lambda: package.fit(3),
    ],
)
def test_a_path_of_another_type_is_a_usage_error(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"a path must be text|does not exist|no run"):
        call()


def test_printed_commands_can_be_pasted():
    path = Path("my [red] photos é")
    assert shell_command("fit", path, "--epochs", 3) == f"foveate fit '{path}' --epochs 3"
    from foveate.api.fit.pipeline import FitResult

    outcome = {"images": {"train": 1}, "seconds": 1.0, "epochs": 1}
    lines = FitResult(path, None, outcome).lines()
    assert lines[-1] == f"next: foveate predict '{path}' IMAGES"
    assert f"foveate evaluate '{path}' OTHER_DATA" in lines[-2]


def test_a_locale_without_utf8(tmp_path):
    folder = make_stripes_folder(tmp_path / "é [red]", 2)
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    out = tmp_path / "out é"
    process = run_in_process("check", str(folder), "--no-plan", "--out", str(out), **locale)
    assert "Traceback" not in process.stderr
    assert "bug" not in process.stderr
    assert process.returncode in (0, 3, 4)
    assert "é [red]" in (out / "check.html").read_text(encoding="utf-8")


@pytest.fixture
def mistyped(tmp_path) -> tuple[list[str], Path, Path]:
    """Arguments with a long mistyped path, that path, and the existing path beside it."""
    folder = tmp_path / ("long_" * 20) / "with spaces and ümlauts"
    folder.mkdir(parents=True)
    (folder / "recipe_of_today.yaml").touch()
    missing = folder / "recipe_of_todya.yaml"
    return ["fit", "photos", "--recipe", str(missing)], missing, folder / "recipe_of_today.yaml"


@pytest.mark.parametrize("columns", WIDTHS)
def test_an_error_is_lines_that_can_be_searched_and_copied(mistyped, columns):
    arguments, missing, similar = mistyped
    expected = [
        "error: there is no recipe file at this path",
        f"  where: {missing}",
        f"  try: did you mean {str(similar)!r}?",
    ]
    assert run_in_process(*arguments, COLUMNS=str(columns)).stderr.splitlines() == expected
    assert run_in_terminal(columns, *PROGRAM, *arguments).splitlines() == expected


ROWS = [
    ["/data/photos/of/many/birds-full-12", "accuracy 0.953 [0.941, 0.962]", ""],
    ["foveate fit photos --tuning full", "a note of several words that may be wrapped", "x"],
]


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_table_loses_no_text(columns):
    code = f"from foveate.utils import console; console.table(['name', 'score', 'more'], {ROWS!r})"
    output = run_in_terminal(columns, sys.executable, "-c", code)
    cells = [cell for row in ROWS for cell in row]
    for word in (word for cell in ["name", "score", *cells] for word in cell.split()):
        assert word in output, output
    piped = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": str(columns)},
    )
    assert piped.stdout.splitlines() == [
        "\t".join(row) for row in (["name", "score", "more"], *ROWS)
    ]


def test_a_table_too_wide_for_its_terminal_becomes_lines():
    code = f"from foveate.utils import console; console.table(['name', 'score', 'more'], {ROWS!r})"
    output = run_in_terminal(40, sys.executable, "-c", code)
    assert f"name: {ROWS[0][0]}\nscore: {ROWS[0][1]}\n\nname: {ROWS[1][0]}" in output


LISTED = """
from pathlib import Path
import foveate
from foveate.api.models.comparison import ComparisonResult
from foveate.api.runs.core import RunsResult
from foveate.utils import console
run = {"run": "runs/flowers-probe-12", "backbone": "vit_small_patch14_dinov2", "tuning": "probe"}
score = {"score": "balanced accuracy 0.953 [0.941, 0.962]", "count": 1020, "split": "test"}
runs = RunsResult(Path("runs"), [{**run, **score}, {**run, "score": "unfinished"}])
console.table(runs.columns, runs.rows)
models = foveate.models()
console.table(models.columns, models.rows)
accuracies = ["0.953 [0.941, 0.962]"] * 2
row = ["tf_efficientnet_lite0", "134.3 M", *accuracies, "0.123", "behind by 0.012", "12.3 s"]
console.table(ComparisonResult.columns, [row])
"""


def test_the_tables_of_runs_and_models_fit_into_80_columns():
    lines = run_in_terminal(80, sys.executable, "-c", LISTED).splitlines()
    assert max(map(len, lines)) <= 80
    heads = [line.split() for line in lines if line.startswith(("run ", "name ", "backbone "))]
    assert [head[0] for head in heads] == ["run", "name", "backbone"], lines
    assert all(len(head) >= 5 for head in heads)


def test_an_unexpected_error_is_reported_as_a_bug(capsys, monkeypatch):
    monkeypatch.setattr("foveate.api.runs.core.list_runs", lambda folder: 1 / 0)
    monkeypatch.delenv("FOVEATE_DEBUG", raising=False)
    assert run("runs") == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    monkeypatch.setenv("FOVEATE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run("runs")


REPORTS = (
    "from foveate.utils import console, log\n"
    "log.info('reading'); log.choice('size', 3, 'few images'); log.warning('one is broken')\n"
    "log.table(['a', 'b'], [['1', '2']])\n"
    "with console.progress(3, 'steps') as bar: bar.advance()\n"
)


def test_in_python_the_library_reports_by_logging():
    def run_code(code: str) -> tuple[str, str]:
        process = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        return process.stdout, process.stderr

    assert run_code(REPORTS) == ("", "one is broken\n")
    setup = "import logging; logging.basicConfig(level='INFO', format='%(name)s %(message)s')\n"
    assert run_code(setup + REPORTS)[1].splitlines() == [
        "foveate reading",
        "foveate chosen: size = 3 (few images)",
        "foveate one is broken",
        "foveate a\tb",
        "1\t2",
    ]
    quiet = "import logging; logging.getLogger('foveate').addHandler(logging.NullHandler())\n"
    assert run_code(quiet + REPORTS) == ("", "")


def test_a_run_records_the_call_of_the_user():
    @entry_point
    def outer() -> Invocation:
        return inner()

    @entry_point
    def inner() -> Invocation:
        return current_invocation()

    assert outer().command == "foveate.outer(...)"
    assert inner().command == "foveate.inner(...)"
    with invocation("foveate fit photos", started=5.0):
        assert outer() == Invocation("foveate fit photos", 5.0)
    assert current_invocation().command == ""


def test_on_the_command_line_reports_are_printed(capsys):
    assert logging.getLogger("foveate").level == logging.INFO  # set by the fixture plain_console
    console.setup(json=True)
    log.info("reading")
    log.warning("one is broken")
    with log.errors_only():
        log.warning("nobody reads this")
    assert capsys.readouterr() == ("", "reading\nnote: one is broken\n")
    console.setup()
    log.table(["a", "b"], [["1", "2"]])
    log.choice("size", 3, "few images")
    assert capsys.readouterr().out == "a\tb\n1\t2\nchosen: size = 3 (few images)\n"


def test_t27_names_that_look_like_markup_or_cannot_be_printed(stripes, tmp_path):
    path = tmp_path / "[bold]ünï🙂"
    process = run_in_process("fit", str(path), PYTHONIOENCODING="ascii", COLUMNS="250")
    assert process.returncode == 2
    assert "[bold]" in process.stderr
    assert "Traceback" not in process.stderr


def test_version():
    assert run_in_process("--version").stdout.startswith("foveate 0.")


def test_all_commands_on_one_run(stripes, tmp_path, capsys, monkeypatch):
    """fit, evaluate, predict and runs as a user calls them, on a network with random weights."""
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
    output = capsys.readouterr()
    result = json.loads(output.out.splitlines()[-1])
    assert len(output.out.splitlines()) == 1
    assert result["run"].startswith("runs")
    assert 0 <= result["accuracy"] <= 1
    assert "random, as requested" in output.err

    assert run("evaluate", result["run"], str(stripes), "--json") == 0
    output = capsys.readouterr()
    assert json.loads(output.out.splitlines()[-1])["count"] == 32
    assert "images took part in training" in output.err

    (tmp_path / "broken.png").write_bytes(b"no picture")
    images = [str(stripes / "lying"), "broken.png"]
    assert run("predict", result["run"], *images, "--json", "--out", "a.jsonl") == 0
    output = capsys.readouterr()
    expected = {"run": result["run"], "images": 17, "skipped": 1, "out": "a.jsonl"}
    assert json.loads(output.out) == expected
    assert "wrote 17 rows to a.jsonl as JSON lines" in output.err
    assert run("predict", result["run"], *images) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["prediction"] in ("lying", "upright")
    assert abs(sum(rows[0]["scores"].values()) - 1) < 1e-5
    assert "error" in rows[16]

    assert (
        run("predict", result["run"], str(stripes / "lying"), "--format", "csv", "--out", "a.csv")
        == 0
    )
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0].startswith("path,prediction,confidence")
    assert len(lines) == 17

    assert run("predict", result["run"], "broken.png", "--strict") == 1
    capsys.readouterr()
    assert run("predict", result["run"], "broken.png") == 1
    assert "error: the image could not be read" in capsys.readouterr().err
    assert run("predict", result["run"], *images, "--out", str(tmp_path)) == 2
    assert "--format jsonl writes a file" in capsys.readouterr().err
    assert run("fit", str(stripes), *network, "--out", result["run"]) == 2
    error = capsys.readouterr().err
    assert "finished run" in error
    assert "--resume" not in error
    capsys.readouterr()
    assert run("runs", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["runs"][0]["run"] == result["run"]


def test_a_list_of_paths_on_stdin_and_a_closed_pipe(stripes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = [
        "--backbone",
        "test_efficientnet",
        "--weights",
        "none",
        "--size",
        "32",
        "--device",
        "cpu",
    ]
    assert run("fit", str(stripes), *options, "--out", "run") == 0
    capsys.readouterr()
    paths = [str(path) for path in sorted((stripes / "lying").iterdir())]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(paths)))
    assert run("predict", "run", "-") == 0
    assert len(capsys.readouterr().out.splitlines()) == 16
    program = " ".join(f"'{word}'" for word in PROGRAM)
    listed = f"printf '%s\\n' {' '.join(4 * paths)}"
    command = f"set -o pipefail; {listed} | {program} predict run - | head -1"
    piped = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert piped.returncode == 0
    assert len(piped.stdout.splitlines()) == 1
    assert "Traceback" not in piped.stderr
    assert "Broken" not in piped.stderr


def test_models_lists_names_with_their_facts(capsys):
    assert run("models", "efficientnet_lite0", "--json") == 0
    cards = json.loads(capsys.readouterr().out.splitlines()[-1])["models"]
    card = next(card for card in cards if card["name"] == "tf_efficientnet_lite0")
    assert card["offline"]
    assert card["license"] == "apache-2.0"
    assert 3e6 < card["parameters"] < 4e6


def test_prediction_formats_are_the_writable_data_formats():
    from foveate.inference.writers import FORMATS

    assert list(FORMATS) == FOLDERS  # listed twice, because predict --help imports nothing heavy
