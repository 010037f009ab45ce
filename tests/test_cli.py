"""The command line: speed, help, exit codes, errors, logging, JSON."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import foveate as package
from foveate.cli import main as cli
from foveate.cli.command import parse_docstring
from foveate.cli.commands import command_names, get_command
from foveate.cli.commands.predict import FOLDERS
from foveate.recipe import SHORT_OPTIONS
from foveate.utils import console, log
from foveate.utils.invocation import Invocation, current_invocation, entry_point, invocation

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
            assert param.default == (None if param.required else parameter.default)
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
        (["fit", "x", "--epochs", "0"], "training.epochs"),
        (["fit", "--recipe", "no.yaml"], "no recipe"),
        (["fit", "--resume", "runs/none"], "no run"),
        (["evaluate", "runs/none"], "no run"),
        (["predict", "runs/none"], "Missing argument"),
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
    assert run("predict", result["run"], str(stripes / "lying"), "broken.png", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[-1] == {"run": result["run"], "images": 17, "skipped": 1}
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
    paths = "\n".join(str(path) for path in sorted((stripes / "lying").iterdir()))
    process = subprocess.run(
        [*PROGRAM, "predict", "run", "-"], input=paths, capture_output=True, text=True, timeout=120
    )
    assert len(process.stdout.splitlines()) == 16
    program = " ".join(f"'{word}'" for word in PROGRAM)
    command = f"set -o pipefail; {program} predict run '{stripes}' '{stripes}' | head -1"
    piped = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert piped.returncode == 0
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
