"""DICOM: pixels as a viewer shows them, the number of frames, and who the patient is, hashed.

Needs pydicom. Of the patient, no message or file may have more than the hash of an identifier.
"""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import MAX_WBITS, decompressobj
from zlib import error as zlib_error

import numpy as np

from foveate.errors import BrokenImage
from foveate.images.limits import refuse_large, too_large, too_slow

if TYPE_CHECKING:
    from pydicom import Dataset

EXTENSIONS = (".dcm", ".dicom", ".dic")
HEAD = 132  # bytes after which DICOM is recognized
_ITEM, _MAX_ITEMS = b"\xfe\xff\x00\xe0", 100_000  # of sequences
_MAX_ELEMENTS = 20_000
_DEFLATED, _META = b"1.2.840.10008.1.2.1.99", 2048  # a transfer syntax, and where it is named
_MAX_INFLATED = 64_000_000, 20  # bytes of a deflated file, and for each byte of it
_INFLATED_AT_ONCE = 2**22  # bytes
_FLOAT_BYTES = 32  # a value, while it is windowed in double precision
_MARK = b"DICM"  # after 128 bytes of any content
_HASH_COST = 2**12  # of scrypt, about 10 ms: too slow to try all numbers that an identifier can be
_INVERTED = "MONOCHROME1"  # the lowest value is white


def is_dicom(head: bytes, name: str = "") -> bool:
    """Whether a file is DICOM, by its first `HEAD` bytes, or by its name."""
    return head[128:HEAD] == _MARK or name.lower().endswith(EXTENSIONS)


def render(source: Path | bytes, frame: int = 0) -> np.ndarray:
    """Return a frame as a viewer shows it.

    Stored values become physical ones by the modality LUT or rescaling, and those become gray by
    the first VOI LUT or window (DICOM PS3.3, C.11.1 and C.11.2). Without a window the darkest
    value is black and the brightest is white. MONOCHROME1 is inverted.

    Args:
        source: File, or its content.
        frame: Its index, from 0.

    Returns:
        (H, W) or (H, W, 3) uint8.

    Raises:
        BrokenImage: It has no pixels.
    """
    dataset = _read(source)
    if "PixelData" not in dataset and "FloatPixelData" not in dataset:
        raise BrokenImage(
            "this DICOM file has no pixels",
            why=f"its modality is {dataset.get('Modality', 'not stated')}",
            hint="remove it: it is a report or a directory",
            id="dicom_without_pixels",
        )
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    bits = dataset.BitsAllocated * dataset.get("SamplesPerPixel", 1)
    samples = dataset.Rows * dataset.Columns * dataset.get("SamplesPerPixel", 1)
    refuse_large(dataset.Rows * dataset.Columns * bits // 8 + _FLOAT_BYTES * samples, None)
    values = pixel_array(dataset, index=frame)
    meaning = dataset.PhotometricInterpretation
    if meaning == "PALETTE COLOR":
        colors = apply_color_lut(values, dataset)
        return _to_bytes(colors / np.iinfo(colors.dtype).max)
    if values.ndim == 3:
        return _to_bytes(values / (2 ** int(dataset.BitsStored) - 1))
    gray = _windowed(apply_modality_lut(values, dataset), values, dataset)
    return _to_bytes(1 - gray if meaning == _INVERTED else gray)


def count_frames(path: Path) -> int:
    """Return the number of frames; 1 if it is not stated."""
    return int(_read_header(path, "NumberOfFrames").get("NumberOfFrames") or 1)


def hashed_patient(path: Path) -> str | None:
    """Return a hash of the patient's identifier; None if the file states none."""
    header = _read_header(path, "PatientID", "IssuerOfPatientID")
    patient = _patient(header)
    issuer = str(header.get("IssuerOfPatientID") or "").strip()
    return _slow_hash(f"{issuer}/{patient}") if patient else None


def hash_patient(patient: str) -> str:
    """Return the hash of an identifier, as that of a file which states no issuer of it."""
    return _slow_hash(f"/{patient}")


def patient_of(path: Path) -> str:
    """Return the patient's identifier, to compare it with a table; empty if none is stated."""
    return _patient(_read_header(path, "PatientID"))


def _patient(header: Any) -> str:
    return str(header.get("PatientID") or "").strip()


@lru_cache(maxsize=100_000)
def _slow_hash(text: str) -> str:
    digest = hashlib.scrypt(text.encode(), salt=b"foveate", n=_HASH_COST, r=8, p=1, dklen=8)
    return f"patient-{digest.hex()}"


def _read(source: Path | bytes) -> Dataset:
    from pydicom.filereader import read_partial

    content = source if isinstance(source, bytes) else source.read_bytes()
    if content.count(_ITEM) > _MAX_ITEMS:
        raise too_slow("it has too many items")
    if _DEFLATED in content[:_META]:
        _refuse_inflated(content)
    elements = count()

    def stop_when(*_: Any) -> bool:
        if next(elements) > _MAX_ELEMENTS:
            raise too_slow("it has too many elements")
        return False

    return read_partial(io.BytesIO(content), stop_when, force=True)


def _refuse_inflated(content: bytes) -> None:
    """Refuse a deflated file that is much larger than it seems; what is damaged is left to pydicom.

    The group of the meta information begins with its own length.
    """
    length = int.from_bytes(content[HEAD + 8 : HEAD + 12], "little")
    accepted = _MAX_INFLATED[0] + _MAX_INFLATED[1] * len(content)
    inflater, rest, size = decompressobj(-MAX_WBITS), content[HEAD + 12 + length :], 0
    try:
        while rest and size <= accepted:
            size += len(inflater.decompress(rest, _INFLATED_AT_ONCE))
            rest = inflater.unconsumed_tail
    except zlib_error:
        return
    if size > accepted:
        raise too_large(None, f"deflated, it has more than {accepted / 1e6:,.0f} MB")


def _read_header(path: Path, *tags: str) -> Any:
    """The stated values only; nothing of a file that is damaged."""
    from pydicom import Dataset, dcmread

    try:
        return dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(tags))
    except Exception:  # pydicom raises nearly anything; decoding will say what is wrong
        return Dataset()


def _windowed(physical: np.ndarray, stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Gray in [0, 1] by the first VOI LUT or window of a file."""
    from pydicom.pixels.processing import apply_voi

    if "VOILUTSequence" in dataset:
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(apply_voi(physical, dataset) / (2**bits - 1))
    center, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is None or width is None or width < 1:
        return _stretched(physical, stored, dataset)
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (physical - center) / width)))
    if function == "LINEAR_EXACT":
        return np.asarray((physical - center) / width + 0.5)
    return np.asarray((physical - (center - 0.5)) / max(width - 1, 1) + 0.5)


def _stretched(physical: np.ndarray, stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Gray in [0, 1] from the darkest to the brightest value; padding is black."""
    padding = dataset.get("PixelPaddingValue")
    is_image = np.ones(stored.shape, bool) if padding is None else stored != padding
    inside = physical[is_image] if is_image.any() else physical
    low, high = float(inside.min()), float(inside.max())
    return np.asarray((physical - low) / (high - low) if high > low else np.zeros(physical.shape))


def _first(value: Any) -> float | None:
    """The first of one or several numbers."""
    if value is None or value == "":
        return None
    return float(value if isinstance(value, int | float | str) else value[0])


def _to_bytes(shares: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(shares.clip(0, 1) * 255), dtype=np.uint8)
