"""Every picture opened once: what it is, what is odd about it, and a thumbnail to compare it by. No network is needed for that."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveate.data.boxes import refitted
from foveate.data.duplicates import gray_thumbnail, tint
from foveate.data.issues import IssueKind, IssueLog
from foveate.errors import BrokenImage, DataError
from foveate.images import codec as images
from foveate.images.codec import ImageHeader
from foveate.predictions import Boxes, Regions
from foveate.types import Sample

CONVERTED = IssueKind("pictures of other values than 8-bit RGB or grey, converted", "note", "files")
CLEAR = IssueKind("pictures that are transparent in part, laid on white", "note", "files")
SEVERAL = IssueKind(
    "files of several pictures (animations, documents), of which the first counts", "note", "files"
)
TURNED = IssueKind(
    "pictures turned upright by their EXIF: boxes and masks must be those of the upright picture",
    "note",
    "files",
)
MISNAMED = IssueKind("files whose content is not what their name says", "note", "files")
FLAT = IssueKind("pictures of one flat colour", "warning", "files", "remove them, if they show nothing")
FAINT = IssueKind(
    "pictures that use a small part of their 16 bits, so that all is nearly one grey",
    "warning",
    "files",
    "stretch them",
)
TINY = IssueKind("pictures with a side below 32 px", "note", "files")
LONG = IssueKind("pictures more than four times as long as wide", "note", "files")
UNFIT = IssueKind(
    "pictures whose boxes reach out of them: the annotations state another size",
    "error",
    "labels",
    "draw boxes on the upright picture, at the size that it has",
)

_SIDE = 64  # px that the short side is decoded at: twice the thumbnail
_SMALL, _LONG = 32, 4
_FLAT, _FAINT = 2, 24  # grey levels between the darkest and the brightest part
_GREY = 8  # levels that the channels of a grey picture differ by at the most
_AT_ONCE = 1000  # pictures that are handed to the readers together
_CONTENT = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".pgm": "PPM",
    ".pbm": "PPM",
}
_MODES = {
    "CMYK": "CMYK",
    "P": "a palette",
    "PA": "a palette",
    "1": "1 bit",
    "F": "fractions",
    "I": "32 bits",
    "YCbCr": "YCbCr",
}


@dataclass(frozen=True, slots=True)
class Look:
    """One picture. `digest`: SHA-256 of its bytes; `thumb`: (32, 32) uint8 grey, `tint`: (2, 64) int8, as in splits; `grey`: no
    colours; `bytes`: of the file; `pixels`: of each class, where a mask says so."""

    facts: ImageHeader
    digest: str
    thumb: np.ndarray
    tint: np.ndarray
    grey: bool
    bytes: int
    pixels: np.ndarray | None = None


def looked(
    samples: Sequence[Sample],
    classes: int,
    found: IssueLog,
    advance: Callable[[], None] = lambda: None,
) -> list[Look | None]:
    """A look at each sample's picture, None where it cannot be read; what is odd about it is added to `found`. `classes`: how many
    a mask may show."""
    looks: list[Look | None] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(samples), _AT_ONCE):
            part = samples[start : start + _AT_ONCE]
            for sample, seen in zip(
                part, pool.map(lambda each: _looked(each, classes), part), strict=True
            ):
                look, refusals = seen
                for place, error in refusals:
                    found.refused(error, place)
                if look is not None:
                    _note(sample, look, found)
                looks.append(look)
                advance()
    return looks


def _looked(sample: Sample, classes: int) -> tuple[Look | None, list[tuple[str, DataError]]]:
    """The look, and what was refused, with its place."""
    try:
        facts = images.read_header(sample.path)
        pixels, _ = images.read_image(sample.path, short_side=_SIDE)
        digest, size = images.content_hash(sample.path), sample.path.stat().st_size
    except BrokenImage as error:
        return None, [(sample.key, error)]
    channels = pixels.astype(np.int16)
    grey = bool((channels.max(axis=2) - channels.min(axis=2)).max() <= _GREY)
    counted, refused = (
        _pixels(sample.target, classes) if isinstance(sample.target, Regions) else (None, [])
    )
    look = Look(facts, digest, gray_thumbnail(pixels), tint(pixels), grey, size, counted)
    return look, [(str(error.where or sample.key), error) for error in refused]


def _pixels(truth: Regions, classes: int) -> tuple[np.ndarray | None, list[DataError]]:
    """(K,) pixels of each class in the mask."""
    try:
        mask = truth.mask
    except DataError as error:
        return None, [error]
    return np.bincount(mask[mask >= 0].ravel(), minlength=classes), []


def _note(sample: Sample, look: Look, found: IssueLog) -> None:
    facts, key = look.facts, sample.key
    height, width = facts.size
    spread = int(look.thumb.max()) - int(look.thumb.min())
    deep = facts.is_16_bit or facts.mode in ("I", "F")
    values = "16 bits a channel" if facts.is_16_bit else _MODES.get(facts.mode, "")
    content = _CONTENT.get(ending := Path(key).suffix.lower(), ending[1:].upper())
    named = {"MPO": "JPEG"}.get(facts.format, facts.format)
    for odd, kind, why in (
        (values, CONVERTED, values),
        (facts.has_transparency, CLEAR, facts.mode),
        (facts.is_multi_frame, SEVERAL, facts.format),
        (facts.exif_transformed, TURNED, f"{width} x {height} px upright"),
        (named != content, MISNAMED, f"{named}, not {content}"),
        (spread <= _FLAT, FLAT, f"{width} x {height} px"),
        (deep and _FLAT < spread <= _FAINT, FAINT, f"{spread} of 256 levels"),
        (min(facts.size) < _SMALL, TINY, f"{width} x {height} px"),
        (max(facts.size) > _LONG * min(facts.size), LONG, f"{width} x {height} px"),
    ):
        if odd:
            found.add(kind, key, why=why)
    if isinstance(sample.target, Boxes):
        problems = refitted(sample.target, facts.size)[1]
        if problems:
            found.add(
                UNFIT,
                key,
                why=f"{problems.total()} of {len(sample.target.names)} boxes, {width} x {height} px",
            )


def size_rows(looks: Sequence[Look]) -> list[tuple[str, str]]:
    """Sizes, colours and formats in words: what, and how it is."""
    if not looks:
        return []
    sides = np.array([look.facts.size for look in looks])
    (height, width), count = Counter(map(tuple, sides.tolist())).most_common(1)[0]
    shorter, longer = np.sort(sides, axis=1).T
    grey = sum(look.grey for look in looks)
    formats = Counter(look.facts.format for look in looks)
    return [
        ("most frequent size", f"{width} x {height} px ({count} of {len(looks)})"),
        ("short side", f"{shorter.min()} to {shorter.max()} px, median {int(np.median(shorter))}"),
        ("long side", f"{longer.min()} to {longer.max()} px, median {int(np.median(longer))}"),
        ("colours", f"{len(looks) - grey} in colour, {grey} grey"),
        ("formats", ", ".join(f"{count} {name}" for name, count in formats.most_common())),
        ("on the disk", f"{sum(look.bytes for look in looks) / 1e6:.1f} MB"),
    ]
