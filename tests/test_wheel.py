"""The wheel: it contains all data files, and works without the repository."""

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
    """Run a command and return its output; a failure shows all of it."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=inherited | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built without a network, by the build back end of the extra dev."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", *options, ROOT, cwd=folder)
    (file,) = folder.glob("foveate-*.whl")
    return file


def test_the_wheel_contains_every_file(wheel):
    contents = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        file.relative_to(SOURCE).as_posix()
        for file in (SOURCE / "foveate").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert expected <= contents
    assert {Path(name).suffix for name in expected} >= {
        ".py",
        ".j2",
        ".css",
        ".js",
        ".html",
        ".json",
    }
    assert not [name for name in contents if name.startswith(("tests", "docs", "bench"))]


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
    output = run(sys.executable, "-c", UNPACKED, unpacked, SOURCE, cwd=tmp_path)
    assert "report.html.j2" in output
    assert output.splitlines()[-1].startswith("foveate ")


def test_an_installed_wheel_fits_and_reports(wheel, stripes, tmp_path):
    """In a new environment with the libraries of this one, but not its Foveate."""
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    options = ("--quiet", "--no-deps", "--no-index", "--ignore-installed")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", *options)
    run(*pip, wheel, cwd=tmp_path)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    (site_packages / "libraries.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    location = run(python, "-c", "import foveate; print(foveate.__file__)", cwd=tmp_path)
    assert location.startswith(str(environment))
    network = ("--backbone", "test_efficientnet", "--weights", "none", "--size", "32")
    run(environment / "bin" / "foveate", "fit", stripes, *network, "--out", "run", cwd=tmp_path)
    report = tmp_path / "run" / "evaluations" / "test" / "report.html"
    assert "<html" in report.read_text(encoding="utf-8")
