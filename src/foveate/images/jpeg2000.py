"""What a JPEG 2000 file makes its decoder hold.

The decoder makes a record of each code block, precinct and tile before it decodes anything: a file
of 600 bytes can ask for gigabytes of them.
"""

from __future__ import annotations

import struct
from typing import IO

from foveate.images.limits import MAX_PIECES, too_slow

_COMPONENT_BYTES = 6  # a pixel of a component: 32 bits, and a part of a copy
_BLOCK_BYTES = 500  # of a code block or precinct and what belongs to it
_TILE_BYTES = 12_000  # of a tile of a component
_SIZE, _CODING, _COMPONENT, _TILE, _DATA, _END = 0x51, 0x52, 0x53, 0x90, 0x93, 0xD9
_DEFAULT_EXPONENTS = (6, 6)  # of a code block's sides


def working_bytes_of_jpeg2000(file: IO[bytes], size: int) -> int:
    """Return the bytes that the decoder takes beside the image.

    Args:
        file: The file, at any position.
        size: Its size.

    Raises:
        BrokenImage: The file has too many parts.
        struct.error: It ends early.
    """
    file.seek(_codestream(file, size) + 2)
    blocks, image = [_DEFAULT_EXPONENTS], (0, 0, 0, 0, 0)
    for _ in range(MAX_PIECES + size // 1024):
        start, code = file.tell(), file.read(2)
        if len(code) < 2 or code[1] == _END:
            break
        length = int.from_bytes(file.read(2), "big")
        content = file.read(length - 2) if length >= 2 else b""
        if code[1] == _SIZE:
            image = _image_size(content)
        elif code[1] in (_CODING, _COMPONENT):
            blocks += _block_sides(content, 5 if code[1] == _CODING else _style_at(image[4]))
        elif code[1] == _TILE:
            part = int.from_bytes(content[2:6], "big")
            blocks += _tile_blocks(file, image[4])
            if part == 0:  # until the end of the file
                break
            file.seek(start + part)
    else:
        raise too_slow("it has too many parts")
    width, height, tile_width, tile_height, components = image
    smallest: int = min(2 ** (x + y) for x, y in blocks)
    pixels = width * height * components
    tiles = -(-width // max(1, tile_width)) * -(-height // max(1, tile_height))
    return (
        _COMPONENT_BYTES * pixels
        + _BLOCK_BYTES * (4 * pixels // (3 * smallest))
        + _TILE_BYTES * tiles * components
    )


def _codestream(file: IO[bytes], size: int) -> int:
    """The position of the codestream in a file of boxes, or of one without them."""
    file.seek(0)
    if file.read(2) == b"\xff\x4f":
        return 0
    position = 0
    for _ in range(MAX_PIECES):
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if length == 1:
            length, head = struct.unpack(">Q", file.read(8))[0], 16
        if kind == b"jp2c":
            return position + head
        position += max(length, head) if length else size
    raise too_slow("it has too many parts")


def _image_size(content: bytes) -> tuple[int, int, int, int, int]:
    """Width, height, those of a tile, and the number of components."""
    right, lower, left, upper, tile_width, tile_height = struct.unpack_from(">6I", content, 2)
    return (
        right - left,
        lower - upper,
        tile_width,
        tile_height,
        int.from_bytes(content[34:36], "big"),
    )


def _style_at(components: int) -> int:
    """Where the number of resolutions is in a marker about one component."""
    return 2 if components < 257 else 3


def _block_sides(content: bytes, at: int) -> list[tuple[int, int]]:
    """Exponents of the sides of code blocks and precincts.

    Args:
        content: Of a marker about coding: its style, then from `at` resolutions, sides of blocks,
            style, transform and sides of precincts.
        at: The position of the number of resolutions.
    """
    has_precincts = content[0 if at == 5 else at - 1] & 1
    sides = [((content[at + 1] & 15) + 2, (content[at + 2] & 15) + 2)]
    if has_precincts:
        # a precinct has a part in each of up to three subbands, at half of the resolution
        sides += [(max(0, (each & 15) - 1), max(0, (each >> 4) - 1)) for each in content[at + 5 :]]
    return sides


def _tile_blocks(file: IO[bytes], components: int) -> list[tuple[int, int]]:
    """What the head of a part of a tile says about blocks; it ends where the data begin."""
    blocks = list[tuple[int, int]]()
    for _ in range(MAX_PIECES):
        code = file.read(2)
        if len(code) < 2 or code[1] == _DATA:
            return blocks
        content = file.read(int.from_bytes(file.read(2), "big") - 2)
        if code[1] in (_CODING, _COMPONENT):
            blocks += _block_sides(content, 5 if code[1] == _CODING else _style_at(components))
    raise too_slow("it has too many parts")
