"""The one decoder against every odd picture that people have."""

from __future__ import annotations

import io
import os
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.data.discovery import find_images
from foveate.errors import BrokenImage
from foveate.images import codec as images
from foveate.utils.paths import printable

# how the upright picture must be stored so that orientation n turns it upright again
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def upright(height: int = 48, width: int = 80) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], axis=-1
    ).astype(np.uint8)


def encoded(picture: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=format, **options)
    return buffer.getvalue()


def turned(orientation: int, format: str, **options: object) -> bytes:
    picture = Image.fromarray(upright())
    if STORED[orientation] is not None:
        picture = picture.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture, format, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("JPEG", {"quality": 98, "subsampling": 0}),
    ],
)
def test_t23_every_orientation_gives_the_same_picture(format, options, orientation):
    pixels, size = images.read_image(turned(orientation, format, **options))
    assert size == (48, 80)
    difference = np.abs(pixels.astype(int) - upright()).max()
    assert difference <= (12 if format == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_short_side_keeps_the_original_size(format, orientation):
    pixels, size = images.read_image(turned(orientation, format), short_side=12)
    assert size == (48, 80)
    assert pixels.shape == (12, 20, 3)


def test_draft_is_used_and_remembers_the_size():
    source = encoded(Image.fromarray(upright(801, 1203)), "JPEG", quality=95)
    pixels, size = images.read_image(source, short_side=100)
    assert size == (801, 1203)
    assert pixels.shape == (100, 150, 3)
    whole, _ = images.read_image(source)
    exact = np.asarray(Image.fromarray(whole).resize((150, 100), Image.Resampling.BICUBIC)).astype(
        int
    )
    assert np.abs(pixels - exact).max() <= 6


def test_small_pictures_grow_to_the_short_side():
    assert images.read_image(encoded(Image.fromarray(upright(5, 7)), "PNG"), short_side=20)[
        0
    ].shape == (
        20,
        28,
        3,
    )


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_t24_sixteen_bits_keep_256_levels(format):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels, _ = images.read_image(encoded(Image.fromarray(ramp), format))
    assert len(np.unique(pixels)) == 256
    assert (pixels[..., 0] == np.rint(ramp / 257)).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_t24_big_endian_and_wide_integers():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    big = Image.frombytes("I;16B", (64, 64), ramp.astype(">u2").tobytes())
    assert images.read_image(encoded(big, "TIFF"))[0].max() == 255
    wide = images.read_image(encoded(Image.fromarray((ramp * 1000).astype(np.int32)), "TIFF"))[0]
    assert (wide.min(), wide.max()) == (0, 255)
    small = images.read_image(encoded(Image.fromarray(np.full((4, 4), 7, dtype=np.int32)), "TIFF"))[
        0
    ]
    assert (small == 7).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([-1000, 0, 1000], [0, 128, 255]),
        ([0, 0.2, 1], [0, 51, 255]),
        ([np.nan, 10, 20], [0, 10, 20]),
    ],
)
def test_t24_float_tiff(values, expected):
    pixels, _ = images.read_image(
        encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    )
    assert pixels[0, :, 0].tolist() == expected


def test_t24_cmyk_comes_out_in_colour():
    picture = Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK")
    pixels, _ = images.read_image(encoded(picture, "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - [200, 30, 40]).max() <= 6


def test_t24_transparency_lies_on_white():
    clear = {"LA": (0, 0), "RGBA": (0, 0, 0, 0)}
    for mode, colour in clear.items():
        assert (
            images.read_image(encoded(Image.new(mode, (4, 4), colour), "PNG"))[0] == 255
        ).all(), mode
    half = images.read_image(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128)), "PNG"))[0]
    assert half[0, 0].tolist() == [255, 127, 127]


def test_t24_palette_with_transparency():
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    pixels, _ = images.read_image(encoded(picture, "PNG", transparency=bytes([0, 255])))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == [40, 50, 60]


def test_t24_one_bit():
    picture = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("1")
    assert images.read_image(encoded(picture, "PNG"))[0][..., 1].tolist() == [[0, 255], [255, 0]]


@pytest.mark.parametrize("format", ["GIF", "TIFF"])
def test_t25_first_frame_counts(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    pixels, _ = images.read_image(
        encoded(frames[0], format, save_all=True, append_images=frames[1:])
    )
    assert pixels[4, 4].tolist() == [255, 0, 0]


def test_t21_damaged_files_are_named(tmp_path):
    whole = encoded(Image.fromarray(upright()), "JPEG")
    for name, content in {
        "cut.jpg": whole[: len(whole) // 2],
        "empty.jpg": b"",
        "text.jpg": b"hello, this is text" * 9,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BrokenImage, match=name) as caught:
            images.read_image(tmp_path / name)
        assert caught.value.why
        assert caught.value.hint


def test_t28_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("pipe.jpg", "folder.jpg", "absent.jpg"):
        with pytest.raises(BrokenImage, match=name):
            images.read_image(tmp_path / name)


@pytest.mark.parametrize(
    "side", [13_400, 30_000]
)  # above the limit, and above the double where Pillow itself raises
def test_t26_bombs_are_refused(side):
    with pytest.raises(BrokenImage, match="too large"):
        images.read_image(header_only(side))


def header_only(side: int) -> bytes:
    content = bytearray(encoded(Image.new("1", (8, 8)), "BMP"))
    content[18:26] = side.to_bytes(4, "little") * 2
    return bytes(content)


def test_t26_a_sliver_does_not_grow_beyond_measure():
    with pytest.raises(BrokenImage, match="too large"):
        images.read_image(encoded(Image.new("L", (20_000, 1)), "PNG"), short_side=256)


def test_eps_starts_no_program():
    with pytest.raises(BrokenImage):
        images.read_image(encoded(Image.new("RGB", (8, 8)), "EPS"))


def test_t21_any_cut_is_a_broken_image_or_a_picture():
    for format in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        whole = encoded(Image.fromarray(upright()), format)
        for cut in range(1, len(whole), max(1, len(whole) // 25)):
            try:
                assert images.read_image(whole[:cut])[0].dtype == np.uint8
            except BrokenImage:
                continue


def test_warning_filters_survive_threads():
    source = turned(6, "TIFF")
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [images.read_image(source) for _ in range(20)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_t28_find_images_skips_clutter_and_survives_cycles(tmp_path):
    for name in [
        "b.JPG",
        "a/2.png",
        "a/10.png",
        ".x.jpg",
        "._b.jpg",
        "__MACOSX/b.jpg",
        ".ipynb_checkpoints/b.jpg",
        "t.txt",
        "Thumbs.db",
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["a/10.png", "a/2.png", "b.JPG"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_t23_the_header_tells_the_upright_size(format, orientation):
    assert images.read_size(turned(orientation, format)) == (48, 80)


def test_the_header_of_a_png_may_speak_at_its_end():
    whole = turned(6, "PNG")
    start = whole.index(b"eXIf") - 4
    chunk = whole[start : start + 12 + int.from_bytes(whole[start : start + 4], "big")]
    end = whole.index(b"IEND") - 4
    moved = whole[:start] + whole[start + len(chunk) : end] + chunk + whole[end:]
    assert images.read_image(moved)[1] == images.read_size(moved) == (48, 80)


def test_the_size_of_a_cut_picture_comes_without_its_pixels(tmp_path):
    whole = encoded(Image.fromarray(upright(400, 600)), "PNG")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert images.read_size(tmp_path / "cut.png") == (400, 600)
    (tmp_path / "text.png").write_bytes(b"no picture")
    with pytest.raises(BrokenImage, match=r"text\.png"):
        images.read_size(tmp_path / "text.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_t23_masks_are_read_as_they_are(orientation):
    values = np.arange(48 * 80, dtype=np.uint16).reshape(48, 80)
    picture = Image.fromarray((values % 251).astype(np.uint8))
    if STORED[orientation] is not None:
        picture = picture.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (images.read_index_mask(encoded(picture, "PNG", exif=exif)) == values % 251).all()
    picture.putpalette([7, 7, 9] * 256)
    assert (images.read_index_mask(encoded(picture, "PNG", exif=exif)) == values % 251).all()
    assert (
        images.read_index_mask(encoded(Image.merge("RGB", [picture.convert("L")] * 3), "PNG")) == 7
    ).all()


def test_masks_of_other_depths():
    deep = np.array([[0, 1, 65535]], dtype=np.uint16)
    assert images.read_index_mask(encoded(Image.fromarray(deep), "PNG")).tolist() == deep.tolist()
    assert images.read_index_mask(encoded(Image.fromarray(deep), "TIFF")).tolist() == deep.tolist()
    assert images.read_index_mask(
        encoded(Image.fromarray(np.array([[True, False]])), "PNG")
    ).tolist() == [[1, 0]]
    assert images.read_index_mask(
        encoded(Image.merge("LA", [Image.new("L", (2, 1), 9)] * 2), "PNG")
    ).tolist() == [[9, 9]]
    for picture in (Image.new("RGB", (4, 4), "red"), Image.new("F", (4, 4), 0.5)):
        with pytest.raises(BrokenImage, match="instead of class numbers"):
            images.read_index_mask(encoded(picture, "TIFF"))


def test_small_tools(tmp_path):
    assert images.thumbnail(upright(), 20).shape == (12, 20, 3)
    assert images.to_data_uri(upright(), "png").startswith("data:image/png;base64,iVBOR")
    (tmp_path / "f").write_bytes(b"abc")
    assert images.content_hash(tmp_path / "f").startswith("ba7816bf")
    assert printable(Path(os.fsdecode(b"caf\xe9/a.jpg"))) == "caf\\xe9/a.jpg"
