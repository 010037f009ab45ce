"""The packages that read uncommon image files."""

from __future__ import annotations

from importlib.util import find_spec

from foveate.errors import BrokenImage


def require_reader(package: str, kind: str, where: str | None) -> None:
    """Check that a package of the extra `imaging` is installed.

    Args:
        package: Its name as it is imported.
        kind: What it reads, with an article: "a whole slide".
        where: The file, for the message.

    Raises:
        BrokenImage: It is not.
    """
    if find_spec(package) is None:
        raise BrokenImage(
            f"this is {kind}, and the package that reads it is not installed",
            where=where,
            why=f"it is called {package.replace('_', '-')}",
            hint="pip install -e '.[imaging]' in the clone of Foveate",
            id="reader_not_installed",
        )
