"""Prints what reading images costs in this process, as JSON; see test_trust_cost.py.

python tests/measure_images.py hostile
python tests/measure_images.py honest
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from foveate.errors import BrokenImage
from foveate.images import codec, cost
from foveate.images.limits import limit_decoding
from hostile_images import DICOM, LARGE, SLOW, encoded, tiny

SIDE, BOUND = 1300, 500_000_000


def measured(content: bytes, short_side: int | None) -> dict[str, float | str]:
    """Read an image; returns the CPU seconds, the peak of memory in bytes, and the error."""
    ctypes.CDLL(None).malloc_trim(0)  # otherwise it would use memory that was freed before
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, start, error = memory("VmRSS"), time.process_time(), ""
    try:
        codec.read_image(content, short_side)
    except BrokenImage as refusal:
        error = str(refusal)
    seconds = time.process_time() - start
    return {"seconds": seconds, "peak": max(0, memory("VmHWM") - before), "error": error}


def memory(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", status)[1])


def hostile() -> dict[str, dict]:
    limit_decoding(BOUND)
    rows = {}
    for kind, makers in (("slow", SLOW), ("large", LARGE)):
        for name, make in makers.items():
            content = make()
            rows[name] = {**measured(content, 64), "kind": kind}
    for name, make in DICOM.items() if find_spec("pydicom") else ():
        rows[f"DICOM: {name}"] = {**measured(make(), 64), "kind": "slow"}
    return rows


def ordinary() -> Iterator[tuple[str, bytes]]:
    """Images of all modes and formats."""
    ramp = np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype(np.uint8)
    gray, exif = Image.fromarray(ramp), Image.Exif()
    rgb, rgba = Image.merge("RGB", [gray] * 3), Image.merge("RGBA", [gray] * 4)
    palette, exif[0x0112] = rgb.quantize(16), 6
    wide, fractions = ramp.astype(np.uint16) * 257, ramp.astype(np.float32) * 9
    turned = {"exif": exif}
    yield "JPEG", encoded(rgb, "JPEG")
    yield "JPEG, turned", encoded(rgb, "JPEG", **turned)
    yield "JPEG, progressive", encoded(rgb, "JPEG", progressive=True, subsampling=0, **turned)
    yield "JPEG, CMYK", encoded(rgb.convert("CMYK"), "JPEG", progressive=True)
    yield "PNG", encoded(rgb, "PNG", compress_level=1, **turned)
    yield "PNG, RGBA", encoded(rgba, "PNG", compress_level=1, **turned)
    yield "PNG, palette", encoded(palette, "PNG", compress_level=1, transparency=3)
    yield "PNG, 1 bit", encoded(gray.convert("1"), "PNG")
    yield "PNG, 16 bits", encoded(Image.fromarray(wide), "PNG", compress_level=1)
    yield "GIF", encoded(palette, "GIF")
    yield "WebP", encoded(rgba, "WEBP", lossless=True, method=0)
    yield "TIFF, fractions", encoded(Image.fromarray(fractions), "TIFF", compression="tiff_lzw")
    yield "TIFF, RGBA", encoded(rgba, "TIFF", compression="tiff_adobe_deflate")
    yield "JPEG 2000", encoded(rgb, "JPEG2000")
    yield "AVIF", encoded(rgba, "AVIF", speed=10)
    yield "BMP", encoded(rgb, "BMP")


def honest() -> dict[str, dict]:
    rows, computed = {}, []
    cost.refuse_large = lambda size, where: computed.append(size)
    codec.read_image(tiny("PNG"))
    codec.read_image(encoded(Image.new("RGBA", (99, 99)), "AVIF"))  # loads its library
    for name, content in ordinary():
        for side in (None, 224):
            row = measured(content, side)
            rows[f"{name}, {side}"] = {**row, "computed": computed[-1]}
    return rows


if __name__ == "__main__":
    print(json.dumps({"hostile": hostile, "honest": honest}[sys.argv[1]]()))
