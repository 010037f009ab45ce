"""Small image files that cost a decoder much, as an attacker would write them."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable

from PIL import Image

Tag = tuple[int, int, int, int]
"""Code, type, count and value (or offset) of a tag of TIFF"""


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(
    width: int, height: int, data: bytes = b"", color: int = 6, depth: int = 8, extra: bytes = b""
) -> bytes:
    """A PNG with these compressed data, and chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + extra + chunk(b"IDAT", data) + chunk(b"IEND")


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def tiff(tags: list[Tag], data: bytes) -> bytes:
    """A TIFF with 200 bytes before its data."""
    entries = b"".join(
        struct.pack("<HHI", code, kind, count)
        + (struct.pack("<HH", value, 0) if kind == 3 else struct.pack("<I", value))
        for code, kind, count, value in sorted(tags)
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return head.ljust(200, b"\0") + data


def gray_tiff(
    width: int, height: int, compression: int, *more: Tag, data: bytes, bits: int = 8
) -> bytes:
    common = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, compression)]
    return tiff([*common, (262, 3, 1, 1), (277, 3, 1, 1), *more], data)


def zeros(count: int) -> bytes:
    """So many zero bytes, deflated."""
    packer, block = zlib.compressobj(1), bytes(2**20)
    parts = [packer.compress(block) for _ in range(count // len(block))]
    return b"".join(parts) + packer.compress(bytes(count % len(block))) + packer.flush()


def tiny(format: str) -> bytes:
    return encoded(Image.new("RGB", (10, 10)), format)


def many_scans(side: int, count: int) -> bytes:
    """A progressive JPEG that repeats its last scan."""
    content = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = [match.start() for match in re.finditer(b"\xff\xda", content)][-1]
    return content[:-2] + content[last:-2] * count + content[-2:]


def blocks_before_gif(blocks: bytes) -> bytes:
    content = encoded(Image.new("P", (10, 10)), "GIF")
    start = 13 + 3 * 2 ** ((content[10] & 7) + 1)
    return content[:start] + blocks + content[start:]


def strips_of_a_row(count: int) -> bytes:
    tags = [(273, 4, count, 200), (278, 3, 1, 1), (279, 4, count, 200)]
    return gray_tiff(10, count, 1, *tags, data=struct.pack("<I", 10) * count)


def large_tile(side: int) -> bytes:
    """A tile of side x side pixels for ten."""
    data = zeros(side * side)
    tags = [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 200), (325, 4, 1, len(data))]
    return gray_tiff(10, 10, 8, *tags, data=data)


def overlapping_tags(count: int, size: int) -> bytes:
    tags = [(273, 4, 1, 8), (278, 3, 1, 10), (279, 4, 1, 100)]
    tags += [(1000 + index, 1, size, 8) for index in range(count)]
    head = gray_tiff(10, 10, 1, *tags, data=b"")
    return head + bytes(size)


def boxes_before_jpeg2000(count: int) -> bytes:
    content = encoded(Image.new("L", (64, 64)), "JPEG2000")
    at = content.index(b"jp2h") - 4
    return content[:at] + b"\0\0\0\x08free" * count + content[at:]


def run_length_bmp(side: int, runs: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 2 * runs, 1, 1, 256, 0)
    start = 14 + len(header) + 1024
    head = b"BM" + struct.pack("<IHHI", start + 2 * runs, 0, 0, start)
    return head + header + bytes(1024) + b"\x01\x07" * runs


def fractions_tiff() -> bytes:
    data = zeros(1000)
    tags = [(339, 3, 1, 3), (273, 4, 1, 200), (278, 4, 1, 9000), (279, 4, 1, len(data))]
    return gray_tiff(9000, 9000, 8, *tags, data=data, bits=32)


def large_webp(side: int) -> bytes:
    content = encoded(Image.new("RGBA", (10, 10)), "WEBP", lossless=True)
    start = content.index(b"VP8L") + 9  # 14 bits of width - 1, then of height - 1, then alpha
    sides = struct.pack("<I", (side - 1) | (side - 1) << 14 | 1 << 28)
    return content[:start] + sides + content[start + 4 :]


def large_jpeg2000(side: int, **options: object) -> bytes:
    content = encoded(Image.new("L", (64, 64)), "JPEG2000", num_resolutions=1, **options)
    return content.replace(struct.pack(">II", 64, 64), struct.pack(">II", side, side))


def dicom(syntax: bytes, content: bytes) -> bytes:
    """A DICOM file with this transfer syntax: the preamble, the mark, meta information."""
    value = syntax + b"\0" * (len(syntax) % 2)
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(value)) + value
    length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta))
    return bytes(128) + b"DICM" + length + meta + content


def inflated_dicom() -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return dicom(b"1.2.840.10008.1.2.1.99", packer.compress(bytes(100_000_000)) + packer.flush())


def many_elements(count: int) -> bytes:
    return dicom(b"1.2.840.10008.1.2.1", struct.pack("<HH2sH", 9, 0x1000, b"LO", 0) * count)


def many_items(count: int) -> bytes:
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * count
    head = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    return dicom(b"1.2.840.10008.1.2.1", head + items)


DICOM: dict[str, Callable[[], bytes]] = {
    "100 MB of zeros, deflated": inflated_dicom,
    "2 million elements": lambda: many_elements(2_000_000),
    "2 million items": lambda: many_items(2_000_000),
}
SLOW: dict[str, Callable[[], bytes]] = {  # refused because they take time
    "PNG: 1.6 million empty chunks": lambda: png(
        10, 10, zeros(410), extra=chunk(b"prVt") * 1_600_000
    ),
    "PNG: 1.6 million parts": lambda: png(10, 10, zeros(410), extra=chunk(b"IDAT") * 1_600_000),
    "JPEG: 20 MB of padding": lambda: b"\xff\xd8" + b"\xff" * 20_000_000 + tiny("JPEG")[2:],
    "JPEG: 5 million comments": lambda: (
        b"\xff\xd8" + b"\xff\xfe\0\x02" * 5_000_000 + tiny("JPEG")[2:]
    ),
    "JPEG: 5000 scans": lambda: many_scans(6000, 5000),
    "JPEG: 90 scans of 36 megapixels": lambda: many_scans(6000, 90),
    "GIF: a comment of 6 million blocks": lambda: blocks_before_gif(
        b"!\xfe" + b"\1a" * 6_000_000 + b"\0"
    ),
    "GIF: 20 MB of zeros": lambda: blocks_before_gif(bytes(20_000_000)),
    "WebP: 2 million chunks": lambda: tiny("WEBP") + b"ABCD\0\0\0\0" * 2_000_000,
    "TIFF: 2.4 million strips": lambda: strips_of_a_row(2_400_000),
    "TIFF: tags that overlap": lambda: overlapping_tags(100, 19_000_000),
    "PPM: 10 million numbers": lambda: b"P2 4000 2500 255 " + b"0 " * 10_000_000,
    "PPM: values up to 254": lambda: b"P6 2580 2580 254\n" + bytes(2580 * 2580 * 3),
    "PPM: 18 MB of comments": lambda: b"P6 " + b"#a\n" * 6_000_000 + b"10 10 255\n" + bytes(300),
    "BMP: run lengths of one pixel": lambda: run_length_bmp(4000, 8_000_000),
    "JPEG 2000: 2.4 million boxes": lambda: boxes_before_jpeg2000(2_400_000),
}
LARGE: dict[str, Callable[[], bytes]] = {  # refused because they take gigabytes
    "PNG: 1 x 178,000,000": lambda: png(1, 178_000_000),
    "PNG: 13,000 x 13,000 RGBA": lambda: png(13_000, 13_000, zeros(1000)),
    "PNG: 178 megapixels of gray": lambda: png(178_000_000, 1, zeros(1000), color=0),
    "TIFF: a tile of 268 megapixels": lambda: large_tile(16_384),
    "TIFF: 81 megapixels of fractions": fractions_tiff,
    "WebP: 12,000 x 12,000": lambda: large_webp(12_000),
    "JPEG 2000: tiny blocks": lambda: large_jpeg2000(4000, codeblock_size=(4, 4)),
    "JPEG 2000: tiny tiles": lambda: large_jpeg2000(6000, tile_size=(16, 16)),
    "GIF: 65,535 x 2,700": lambda: encoded(Image.new("P", (10, 10)), "GIF").replace(
        struct.pack("<HH", 10, 10), struct.pack("<HH", 65_535, 2_700)
    ),
}
