"""Runs the commands of the tutorials in empty folders and pastes what they print into the pages.

    python docs/examples_output.py [docs/tutorials/classify.md ...]

A block after `<!-- run -->` is run, and one after `<!-- output: PATTERN -->` is replaced by the
lines of the last run that match the pattern (all lines without one). The tutorials take some
minutes on two cores; look at the difference before you commit it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PART = re.compile(
    r"<!-- (?P<kind>run|output)(?:: (?P<pattern>.*?))? -->\n(?P<fence>```\w+[^\n]*\n)"
    r"(?P<body>.*?)(?P<end>```)",
    re.DOTALL,
)
LIMIT = 900  # seconds for a block
PROGRESS = re.compile(r"^[\w .-]+( \d+/\d+)?: \d+/\d+( |$)")  # lines that only a slow run prints


def main(pages: list[Path]) -> None:
    for page in pages or sorted((ROOT / "docs" / "tutorials").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if "<!-- run -->" in text:
            page.write_text(rewritten(text, page.name), encoding="utf-8")


def rewritten(text: str, name: str) -> str:
    with tempfile.TemporaryDirectory(prefix="foveate-docs-") as folder:
        shutil.copy(ROOT / "examples" / "draw_shapes.py", folder)
        printed = ""

        def replace(part: re.Match[str]) -> str:
            nonlocal printed
            if part["kind"] == "run":
                printed = run(part["body"], Path(folder), name)
                return part[0]
            head = part[0][: part[0].index("```")]
            return f"{head}```text\n{chosen(printed, part['pattern'])}\n```"

        return PART.sub(replace, text)


def run(commands: str, folder: Path, name: str) -> str:
    print(f"== {name}: {commands.strip().splitlines()[0]} ...", flush=True)
    shim = folder / ".bin" / "foveate"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m foveate "$@"\n')
    shim.chmod(0o755)
    path = [str(shim.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = os.environ | {
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": str(ROOT / "src"),
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
    )
    if done.returncode:
        sys.exit(f"{name}: exit code {done.returncode}\n{done.stdout[-3000:]}")
    return done.stdout.replace(f"{folder}/", "")


def chosen(printed: str, pattern: str | None) -> str:
    """The lines that match, with ... where others are left out."""
    lines: list[str] = []
    for line in printed.splitlines():
        if PROGRESS.match(line):
            continue
        if line.strip() and (pattern is None or re.search(pattern, line)):
            lines.append(line.rstrip().replace("\t", "    "))
        elif lines and lines[-1] != "...":
            lines.append("...")
    return "\n".join(lines[:-1] if lines[-1:] == ["..."] else lines)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
