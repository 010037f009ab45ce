"""What readers of uncommon image files have in common: packages, and the bound on memory."""

from __future__ import annotations

from importlib.util import find_spec

from foveate.errors import BrokenImage

MAX_BYTES = 2**30  # of the decoded values of an image


def refuse_large(size: int, where: str | None) -> None:
    """Raise BrokenImage if decoded values take more than MAX_BYTES; `size` is in bytes."""
    if size > MAX_BYTES:
        raise BrokenImage(
            "this image is too large to decode safely",
            where=where,
            why=f"its values take {size / 2**30:.1f} GiB, and {MAX_BYTES / 2**30:.0f} are accepted",
            hint="scale it down first, or cut it into tiles",
            id="too_large_image",
        )


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
