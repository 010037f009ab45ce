"""Whole slides of microscopes: tiles with tissue. Needs tiffslide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import BrokenImage
from foveate.images.installed import require_reader
from foveate.utils.paths import printable

SLIDE_EXTENSIONS = (".svs", ".ndpi", ".scn", ".bif")
TILE = 512  # side, px
MICRONS = 1.0  # per pixel: of the levels of a slide the nearest one is read
MAX_TILES = 400  # of a slide, evenly spread
_OVERVIEW = 1024  # px: long side of the thumbnail in which tissue is looked for
_COLORED, _TISSUE = 20, 0.3  # difference of channels that is no glass; share of a tile that is not

Tile = tuple[int, int, int]
"""Level, and x and y of the upper left corner in px of the finest level."""


def is_slide(path: Path) -> bool:
    """Whether a file is a whole slide, by its name."""
    return path.name.lower().endswith(SLIDE_EXTENSIONS)


def find_tiles(path: Path) -> list[Tile]:
    """Return the tiles of a slide that show tissue: something that is neither white nor gray.

    Raises:
        BrokenImage: The slide cannot be read.
    """
    with _open(path) as slide:
        try:
            return _find_tiles(slide)
        except Exception as error:  # a damaged file makes its readers raise nearly anything
            raise _unreadable(path, str(error)) from None


def read_tile(path: Path, tile: Tile) -> np.ndarray:
    """Return the pixels of a tile, (H, W, 3) uint8.

    Raises:
        BrokenImage: The slide cannot be read.
    """
    level, x, y = tile
    with _open(path) as slide:
        try:
            return np.asarray(slide.read_region((x, y), level, (TILE, TILE)).convert("RGB"))
        except Exception as error:
            raise _unreadable(path, str(error)) from None


def _find_tiles(slide: Any) -> list[Tile]:
    level = _level_of(slide)
    scale = slide.level_downsamples[level]
    width, height = slide.level_dimensions[level]
    overview = np.asarray(slide.get_thumbnail((_OVERVIEW, _OVERVIEW)).convert("RGB"), np.int16)
    colored = overview.max(-1) - overview.min(-1) > _COLORED
    rows, columns = overview.shape[0] / height, overview.shape[1] / width
    tiles = list[Tile]()
    for y in range(0, max(1, height - TILE + 1), TILE):
        for x in range(0, max(1, width - TILE + 1), TILE):
            part = colored[
                int(y * rows) : max(int(y * rows) + 1, int((y + TILE) * rows)),
                int(x * columns) : max(int(x * columns) + 1, int((x + TILE) * columns)),
            ]
            if part.mean() >= _TISSUE:
                tiles.append((level, round(x * scale), round(y * scale)))
    chosen = np.linspace(0, len(tiles) - 1, min(len(tiles), MAX_TILES)).round().astype(int)
    return [tiles[index] for index in chosen]


def _level_of(slide: Any) -> int:
    """The level whose resolution is nearest to MICRONS; without a stated one the finest."""
    stated = slide.properties.get("tiffslide.mpp-x")
    if not stated:
        return 0
    ratios = [abs(np.log(float(stated) * scale / MICRONS)) for scale in slide.level_downsamples]
    return int(np.argmin(ratios))


def _open(path: Path) -> Any:
    require_reader("tiffslide", "a whole slide", printable(path))
    import tiffslide

    try:
        return tiffslide.TiffSlide(path)
    except Exception as error:
        raise _unreadable(path, str(error)) from None


def _unreadable(path: Path, why: str) -> BrokenImage:
    return BrokenImage(
        "this slide cannot be read",
        where=printable(path),
        why=why.replace("\n", " ")[:200],
        hint="copy it again, or remove it",
        id="unreadable_slide",
    )
