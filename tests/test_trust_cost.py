"""What a picture or a request may cost is decided before it is paid: docs/trust.md, T43 to T52.

Memory and time are measured in fresh processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MEGABYTE = 1_000_000
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


def in_fresh_process(script: str, *arguments: object) -> dict:
    """Run a script of this folder; returns the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, TESTS / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- images


@linux
def test_t43_costly_pictures_are_refused_by_their_headers():
    """In less than a second and 64 MB each, also those that no bound on pixels refuses."""
    rows = in_fresh_process("measure_images.py", "hostile")
    for name, row in rows.items():
        kind = "too long" if row["kind"] == "slow" else "too large"
        assert kind in row["error"], name
        assert row["seconds"] < 1, name
        assert row["peak"] < 64 * MEGABYTE, name


@linux
def test_t43_decoding_takes_no_more_memory_than_is_computed_from_the_header():
    """Of every mode and format, whole and resized; and the figure is not a wild guess."""
    rows = in_fresh_process("measure_images.py", "honest")
    for name, row in rows.items():
        assert row["peak"] <= row["computed"], name
        assert row["computed"] <= 4 * row["peak"] + 32 * MEGABYTE, name
