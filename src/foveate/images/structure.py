"""The structure of image files, read before a decoder sees them.

Decoders follow what a file says: thousands of scans that change nothing, millions of empty chunks,
a tile of a gigabyte for ten pixels. Each of the checks below reads heads only (of a progressive
JPEG all of it, once), ends after a stated number of steps, and leaves what it does not understand
to the decoder.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from itertools import count
from typing import IO

from foveate.images.jpeg2000 import working_bytes_of_jpeg2000
from foveate.images.limits import MAX_PIECES, too_slow

MAX_SCANS = 100  # of a JPEG; encoders write about ten
MAX_SCANNED_PIXELS = 2_000_000_000  # of all scans together: three seconds
MAX_STRIPS = 131_072  # strips or tiles of a TIFF, which Pillow lists one by one
MAX_JUNK = 65_536  # bytes between the segments of a JPEG
_MAX_PPM_HEAD = 4096  # bytes; comments are part of it
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_STANDALONE = (0x01, *range(0xD0, 0xD9))
_SCAN, _END = 0xDA, 0xD9
_NEXT_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_TIFF_SIZES |= {13: 4, 16: 8, 17: 8, 18: 8}
_WIDTH, _LENGTH, _BITS, _SAMPLES, _ROWS = 256, 257, 258, 277, 278  # tags of TIFF
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_BIG = 43  # in the head of a TIFF with 64-bit offsets
_PIECES = (273, 279, 324, 325)  # offsets and sizes of strips and tiles


class _Steps:
    """Counts the pieces of a file, and refuses it when there are too many."""

    def __init__(self, size: int, kind: str) -> None:
        self.left, self.kind = MAX_PIECES + size // 1024, kind

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise too_slow(f"it has too many {self.kind}")


def working_bytes(file: IO[bytes], size: int) -> int:
    """Refuse a file that takes too long to decode, and return what its decoder needs.

    Args:
        file: The file, at any position.
        size: Its size.

    Returns:
        The bytes of memory that the structure of the file makes its decoder take, beside the
        image; of formats in which it has no influence 0.

    Raises:
        BrokenImage: Its structure would take a decoder too long.
    """
    file.seek(0)
    head = file.read(12)
    for matches, check in _CHECKS:
        if matches(head):
            try:
                return check(file, size)
            except (struct.error, IndexError, KeyError):  # it ends early: the decoder will say it
                return 0
    return 0


# --- JPEG


def _check_jpeg(file: IO[bytes], size: int) -> int:
    """Count the scans; of several, the coefficients of the whole image are held."""
    file.seek(2)
    steps, frame = _Steps(size, "segments"), b""
    is_progressive = False
    while (code := _next_code(file)) is not None and code != _END:
        steps.step()
        if code in _STANDALONE:
            continue
        length = int.from_bytes(file.read(2), "big")
        if code in _FRAMES:
            frame, is_progressive = file.read(length - 2), code in _PROGRESSIVE
        elif code == _SCAN:
            components = file.read(1)[0]
            file.seek(length - 3, 1)
            if not is_progressive and components >= frame[5]:
                return 0
            return _check_scans(file.read(), frame, steps)
        else:
            file.seek(length - 2, 1)
    return 0


def _next_code(file: IO[bytes]) -> int | None:
    """The code of the next marker before the first scan; bytes between segments are counted."""
    for junk in count():
        if junk > MAX_JUNK:
            raise too_slow("there is junk between its segments")
        if not (byte := file.read(1)):
            return None
        if byte == b"\xff":
            code = file.read(1)
            if code not in (b"\x00", b"\xff"):
                return code[0] if code else None
            if code == b"\xff":  # padding: the next byte may be the code
                file.seek(-1, 1)
    return None


def _check_scans(content: bytes, frame: bytes, steps: _Steps) -> int:
    """Count the scans of a JPEG from behind the head of its first one."""
    height, width = struct.unpack_from(">HH", frame, 1)
    scans, position = 1, 0
    while (marker := _NEXT_MARKER.search(content, position)) is not None:
        code, position = marker[1][0], marker.end()
        if code == _END:
            break
        steps.step()
        scans += code == _SCAN
        if scans > min(MAX_SCANS, MAX_SCANNED_PIXELS // max(1, width * height)):
            raise too_slow(f"it has more than {scans - 1} scans of {width} x {height} pixels")
        if code not in _STANDALONE:
            position += int.from_bytes(content[position : position + 2], "big")
    factors = [(each >> 4, each & 15) for each in frame[7::3]]  # sampling: horizontal, vertical
    full = max(h for h, _ in factors) * max(v for _, v in factors)
    samples: int = width * height * sum(h * v for h, v in factors) // max(1, full)
    return 2 * samples


# --- PNG, WebP, GIF: lists of pieces


def _check_png(file: IO[bytes], size: int) -> int:
    return _walk(file, 8, ">I4s", 4, _Steps(size, "chunks"))


def _check_webp(file: IO[bytes], size: int) -> int:
    return _walk(file, 12, "<4xI", 0, _Steps(size, "chunks"))


def _walk(file: IO[bytes], start: int, head: str, tail: int, steps: _Steps) -> int:
    """Count chunks, each a head with its length, its content, and `tail` bytes."""
    length = struct.calcsize(head)
    file.seek(start)
    while len(piece := file.read(length)) == length:
        steps.step()
        content: int = struct.unpack(head, piece)[0]
        file.seek(content + tail + (content % 2 if tail == 0 else 0), 1)
    return 0


def _check_gif(file: IO[bytes], size: int) -> int:
    """Count what comes before the first image."""
    steps = _Steps(size, "blocks")
    file.seek(10)
    flags = file.read(3)[0]
    file.seek(3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0, 1)
    while (kind := file.read(1)) and kind not in (b",", b";"):
        steps.step()
        if kind == b"!":
            file.seek(1, 1)
            while length := file.read(1)[0]:
                steps.step()
                file.seek(length, 1)
    return 0


# --- TIFF


def _check_tiff(file: IO[bytes], size: int) -> int:
    """Bound the tags of the first image, the number of its pieces, and the size of one."""
    file.seek(0)
    head = file.read(16)
    order = "<" if head.startswith(b"II") else ">"
    # readers disagree about which byte tells the variant with 64 bits
    variants = {head[2] == _BIG, _BIG in head[2:4]}
    return max(_check_tags(file, size, order, head, is_big) for is_big in variants)


def _check_tags(file: IO[bytes], size: int, order: str, head: bytes, is_big: bool) -> int:
    pointer, number, entry = ("Q", "Q", "HHQ8s") if is_big else ("I", "H", "HHI4s")
    file.seek(struct.unpack_from(order + pointer, head, 8 if is_big else 4)[0])
    (tags,) = struct.unpack(order + number, file.read(struct.calcsize(order + number)))
    length = struct.calcsize(order + entry)
    steps, values, total = _Steps(size, "tags"), dict[int, int](), 0
    for _ in range(tags):
        steps.step()
        code, kind, count, data = struct.unpack(order + entry, file.read(length))
        item = _TIFF_SIZES.get(kind, 1)
        total += item * count
        if code in _PIECES and count > MAX_STRIPS:
            raise too_slow(f"it is in {count:,} strips or tiles")
        if count == 1 and item in (2, 4, 8):
            value = int.from_bytes(data[:item], "little" if order == "<" else "big")
            values[code] = max(value, values.get(code, 0))
    if total > size + MAX_JUNK:
        raise too_slow("its tags state more values than the file has")
    return _piece_bytes(values)


def _piece_bytes(values: dict[int, int]) -> int:
    """The bytes of one strip or tile, which is decoded whole."""
    if _TILE_WIDTH in values:
        pixels = values[_TILE_WIDTH] * values[_TILE_LENGTH]
    else:
        pixels = values[_WIDTH] * min(values.get(_ROWS, values[_LENGTH]), values[_LENGTH])
    samples = values.get(_SAMPLES, 1)
    # of several samples, the bits are not in the tag itself: 16 at most, as far as Pillow reads
    bits = values.get(_BITS, 8) if samples == 1 else 16
    return pixels * max(4, samples * -(-bits // 8))


# --- PPM


def _check_ppm(file: IO[bytes], size: int) -> int:
    """Bound the comments in the head, which Pillow reads byte by byte."""
    file.seek(0)
    head = file.read(_MAX_PPM_HEAD)
    if size > _MAX_PPM_HEAD and len(re.sub(rb"#[^\r\n]*", b"", head).split()) < 4:
        raise too_slow("its head is too long")
    return 0


def _starts(*beginnings: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(beginnings)


_CHECKS: tuple[tuple[Callable[[bytes], bool], Callable[[IO[bytes], int], int]], ...] = (
    (_starts(b"\xff\xd8"), _check_jpeg),
    (_starts(b"\x89PNG"), _check_png),
    (_starts(b"GIF8"), _check_gif),
    (lambda head: head[:2] in (b"II", b"MM") and bool({42, _BIG} & {*head[2:4]}), _check_tiff),
    (lambda head: head[:4] == b"RIFF" and head[8:] == b"WEBP", _check_webp),
    (_starts(b"P"), _check_ppm),
    (_starts(b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "), working_bytes_of_jpeg2000),
)
