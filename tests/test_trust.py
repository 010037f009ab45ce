"""docs/trust.md: every promise has a row, and the tests that it names exist, and the reverse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "trust.md").read_text(encoding="utf-8")
ROWS = {
    int(number): (promise, proof)
    for number, promise, proof in re.findall(
        r"^\| T(\d+) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE
    )
}
TEST_NAMES = {
    name
    for file in TESTS.glob("test_*.py")
    for name in re.findall(r"^def (test_\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
}


def test_every_promise_has_one_line():
    assert sorted(ROWS) == list(range(1, 1 + len(ROWS)))
    assert len(re.findall(r"^\| T\d+ \|", PAGE, re.MULTILINE)) == len(ROWS)


@pytest.mark.parametrize("number", sorted(ROWS))
def test_the_tests_of_a_promise_exist(number):
    """Or it says plainly that nothing does."""
    _, proof = ROWS[number]
    named = set(re.findall(r"`(test_\w+)`", proof))
    assert named <= TEST_NAMES
    assert any(name.startswith(f"test_t{number}_") for name in named) or proof.startswith(
        "Not yet: "
    )


def test_every_test_with_a_number_has_a_promise():
    numbers = {
        int(match.group(1)) for name in TEST_NAMES if (match := re.match(r"test_t(\d+)_", name))
    }
    assert numbers <= set(ROWS)
    assert {
        number for number, (_, proof) in ROWS.items() if proof.startswith("Not yet: ")
    }.isdisjoint(numbers)
