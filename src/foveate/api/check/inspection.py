"""Opening every image once: its properties, what is unusual about it, and its fingerprint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from foveate.data.boxes import revalidate_boxes
from foveate.data.discovery import EXTENSIONS
from foveate.data.issues import IssueLog
from foveate.data.scan import Fingerprint, scan_images
from foveate.errors import BrokenImage, DataError
from foveate.images.codec import ImageHeader, read_header, read_image
from foveate.images.jpeg import ends_early
from foveate.images.pixels import Rendering, as_rgb
from foveate.messages import Message, counted
from foveate.predictions import Boxes, Regions
from foveate.types import IssueKind, Sample, StoredImage

CONVERTED = IssueKind(
    "image_converted", "images that are not 8-bit RGB or grayscale, converted", "note", "files"
)
TRANSPARENT = IssueKind(
    "image_transparent", "images with transparency, put on white", "note", "files"
)
MULTI_FRAME = IssueKind(
    "image_multi_frame",
    "files with several images (animations, documents), of which the first is used",
    "note",
    "files",
)
CUT_OFF = IssueKind(
    "image_cut_off",
    "image files that end early: the lowest rows are missing",
    "warning",
    "files",
    "copy them again",
)
BANDS = IssueKind(
    "image_bands",
    "images of other than one or three bands: the first three are used, or the first of two",
    "note",
    "files",
    "choose others, for instance: --set data.bands=[4,3,2]",
)
EXIF_TRANSFORMED = IssueKind(
    "image_exif",
    "images rotated upright according to EXIF: boxes and masks must refer to the upright image",
    "note",
    "files",
)
MISNAMED = IssueKind(
    "image_misnamed", "image files whose extension does not match their content", "note", "files"
)
UNIFORM = IssueKind(
    "image_uniform",
    "images of a single color",
    "warning",
    "files",
    "remove them if they show nothing",
)
FAINT = IssueKind(
    "image_faint",
    "16-bit images that use a small part of their range and look almost uniformly gray",
    "warning",
    "files",
    "stretch their values to the full range",
)
TINY = IssueKind("image_tiny", "images with a side below 32 px", "note", "files")
ELONGATED = IssueKind(
    "image_elongated", "images more than four times as long as wide", "note", "files"
)
BOXES_OUTSIDE = IssueKind(
    "boxes_outside_image",
    "images with boxes that extend beyond them: the annotations state another size",
    "error",
    "labels",
    "draw boxes on the upright image, at its actual size",
)

_SHORT_SIDE = 64  # px that images are decoded at: twice the thumbnail
_TINY, _ELONGATED = 32, 4  # px; ratio of the sides
_UNIFORM, _FAINT = 2, 24  # gray levels between the darkest and the brightest part
_GRAY = 8  # levels by which the channels of a grayscale image may differ
_FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".pgm", ".pbm"), "PPM"),
    **dict.fromkeys((".jp2", ".j2k"), "JPEG2000"),
    **dict.fromkeys((".dcm", ".dicom", ".dic"), "DICOM"),
    ".heif": "HEIC",
}
_MODES = {
    "CMYK": "CMYK",
    "P": "palette",
    "PA": "palette",
    "1": "1 bit",
    "F": "floating point",
    "I": "32 bits",
    "YCbCr": "YCbCr",
}


@dataclass(frozen=True, slots=True)
class InspectedImage:
    """An image that was opened.

    Attributes:
        header: What its header states.
        fingerprint: What copies of it are recognized by.
        is_gray: Whether it has no colors.
        bytes: Size of the file.
        is_cut_off: Whether the file ends before the image does.
        pixels: (K,) number of pixels of each class, if it has a mask.
    """

    header: ImageHeader
    fingerprint: Fingerprint
    is_gray: bool
    bytes: int
    is_cut_off: bool
    pixels: np.ndarray | None = None


def inspect_images(
    samples: Sequence[Sample],
    classes: int,
    log: IssueLog,
    rendering: Rendering,
    advance: Callable[[], None] = lambda: None,
) -> list[InspectedImage | None]:
    """Open every image, and record what is unusual.

    Args:
        samples: The images.
        classes: Number of classes that a mask may contain.
        log: Where unreadable images and unusual properties are recorded.
        rendering: How bands and values beyond 8 bits become RGB.
        advance: Called after each image.

    Returns:
        A result for each sample; None if the image cannot be read.
    """
    images: list[InspectedImage | None] = []
    results = scan_images(
        samples, lambda sample: _inspect(sample, classes, rendering), advance=advance
    )
    for sample, result in zip(samples, results, strict=True):
        if isinstance(result, BrokenImage):
            log.add_error(result, sample.key)
            images.append(None)
            continue
        image, mask_error = result
        if mask_error is not None:
            log.add_error(mask_error, str(mask_error.where or sample.key))
        _record(sample, image, log, chosen_bands=bool(rendering.bands))
        images.append(image)
    return images


def _inspect(
    sample: Sample, classes: int, rendering: Rendering
) -> tuple[InspectedImage, DataError | None]:
    """The image, and what is wrong with its mask. Raises BrokenImage."""
    source = sample.source
    header = read_header(source)
    if isinstance(sample.path, StoredImage) and sample.path.format:
        header = replace(header, format=sample.path.format)
    pixels, _ = read_image(source, _SHORT_SIDE, rendering)
    fingerprint = Fingerprint.of(source, pixels)
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    channels = as_rgb(pixels).astype(np.int16)
    is_gray = bool((channels.max(axis=2) - channels.min(axis=2)).max() <= _GRAY)
    counts, error = None, None
    if isinstance(sample.target, Regions):
        try:
            mask = sample.target.mask
            counts = np.bincount(mask[mask >= 0].ravel(), minlength=classes)
        except DataError as mask_error:
            error = mask_error
    return InspectedImage(header, fingerprint, is_gray, size, ends_early(source), counts), error


def _record(sample: Sample, image: InspectedImage, log: IssueLog, chosen_bands: bool) -> None:
    """Record what is unusual about an image.

    Args:
        sample: The image.
        image: What was found out about it.
        log: Where it is recorded.
        chosen_bands: Whether the user has said which bands count.
    """
    header, key = image.header, sample.key
    height, width = header.size
    size = f"{width} x {height} px"
    thumbnail = image.fingerprint.thumbnail
    levels = int(thumbnail.max()) - int(thumbnail.min())
    is_deep = header.is_16_bit or header.mode in ("I", "F")
    values = "16 bits per channel" if header.is_16_bit else _MODES.get(header.mode, "")
    extension = Path(key).suffix.lower()
    stated = _FORMATS.get(extension, extension[1:].upper())
    actual = {"MPO": "JPEG"}.get(header.format, header.format)
    has_other_bands = header.format == "TIFF" and header.bands not in (1, 3)
    is_misnamed = extension in EXTENSIONS and actual != stated and isinstance(sample.path, Path)
    for is_unusual, kind, why in (
        (values, CONVERTED, values),
        (header.has_transparency, TRANSPARENT, header.mode),
        (header.is_multi_frame, MULTI_FRAME, header.format),
        (image.is_cut_off, CUT_OFF, size),
        (has_other_bands and not chosen_bands, BANDS, f"{header.bands} bands"),
        (header.exif_transformed, EXIF_TRANSFORMED, f"{size} upright"),
        (is_misnamed, MISNAMED, f"{actual}, not {stated}"),
        (levels <= _UNIFORM, UNIFORM, size),
        (is_deep and _UNIFORM < levels <= _FAINT, FAINT, f"{levels} of 256 levels"),
        (min(header.size) < _TINY, TINY, size),
        (max(header.size) > _ELONGATED * min(header.size), ELONGATED, size),
    ):
        if is_unusual:
            log.add(kind, key, why=why)
    if isinstance(sample.target, Boxes):
        problems = revalidate_boxes(sample.target, header.size)[1]
        if problems:
            boxes = counted(len(sample.target.names), "box", "boxes")
            why = f"{problems.total()} of {boxes}, {size}"
            log.add(BOXES_OUTSIDE, key, why=why)


def size_rows(images: Sequence[InspectedImage]) -> list[tuple[Message, Message | str]]:
    """Return the sizes, colors and formats of images as rows of name and value."""
    if not images:
        return []
    sizes = [image.header.size for image in images]
    (height, width), count = Counter(sizes).most_common(1)[0]
    shorter, longer = np.sort(np.array(sizes), axis=1).T
    most_frequent = Message(
        "check.size_count",
        "{size} ({count} of {total})",
        size=f"{width} x {height} px",
        count=count,
        total=len(images),
    )
    gray = sum(image.is_gray for image in images)
    text = "{color} in color, {gray} grayscale"
    colors = Message("check.color_counts", text, color=len(images) - gray, gray=gray)
    formats = Counter(image.header.format for image in images).most_common()
    return [
        (Message("check.frequent_size", "most frequent size"), most_frequent),
        (Message("check.short_side", "short side"), _range(shorter)),
        (Message("check.long_side", "long side"), _range(longer)),
        (Message("check.colors", "colors"), colors),
        (
            Message("check.formats", "file formats"),
            ", ".join(f"{count} {name}" for name, count in formats),
        ),
        (
            Message("check.on_disk", "size on disk"),
            f"{sum(image.bytes for image in images) / 1e6:.1f} MB",
        ),
    ]


def _range(sides: np.ndarray) -> Message:
    return Message(
        "check.side_range",
        "{low} to {high} px, median {median}",
        low=int(sides.min()),
        high=int(sides.max()),
        median=int(np.median(sides)),
    )
