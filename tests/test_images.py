"""The image decoder: orientations, pixel types, sizes, and broken files."""

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
from foveate.images import codec, encoding
from foveate.utils.paths import printable

# transform of the upright image before it is saved with EXIF orientation n
STORED_TRANSPOSE = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def upright_pixels(height: int = 48, width: int = 80) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], axis=-1
    ).astype(np.uint8)


def encode_image(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def rotated_image(orientation: int, format: str, **options: object) -> bytes:
    image = Image.fromarray(upright_pixels())
    if STORED_TRANSPOSE[orientation] is not None:
        image = image.transpose(STORED_TRANSPOSE[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode_image(image, format, exif=exif, **options)


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
def test_t23_every_orientation_gives_the_same_image(format, options, orientation):
    pixels, size = codec.read_image(rotated_image(orientation, format, **options))
    assert size == (48, 80)
    difference = np.abs(pixels.astype(int) - upright_pixels()).max()
    assert difference <= (12 if format == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_short_side_keeps_the_original_size(format, orientation):
    pixels, size = codec.read_image(rotated_image(orientation, format), short_side=12)
    assert size == (48, 80)
    assert pixels.shape == (12, 20, 3)


def test_draft_is_used_and_remembers_the_size():
    source = encode_image(Image.fromarray(upright_pixels(801, 1203)), "JPEG", quality=95)
    pixels, size = codec.read_image(source, short_side=100)
    assert size == (801, 1203)
    assert pixels.shape == (100, 150, 3)
    full, _ = codec.read_image(source)
    exact = np.asarray(Image.fromarray(full).resize((150, 100), Image.Resampling.BICUBIC)).astype(
        int
    )
    assert np.abs(pixels - exact).max() <= 6


def test_small_images_are_enlarged_to_the_short_side():
    assert codec.read_image(
        encode_image(Image.fromarray(upright_pixels(5, 7)), "PNG"), short_side=20
    )[0].shape == (
        20,
        28,
        3,
    )


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_t24_sixteen_bits_keep_256_levels(format):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels, _ = codec.read_image(encode_image(Image.fromarray(ramp), format))
    assert len(np.unique(pixels)) == 256
    assert (pixels[..., 0] == np.rint(ramp / 257)).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_t24_big_endian_and_wide_integers():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    big = Image.frombytes("I;16B", (64, 64), ramp.astype(">u2").tobytes())
    assert codec.read_image(encode_image(big, "TIFF"))[0].max() == 255
    wide = codec.read_image(encode_image(Image.fromarray((ramp * 1000).astype(np.int32)), "TIFF"))[
        0
    ]
    assert (wide.min(), wide.max()) == (0, 255)
    small = codec.read_image(
        encode_image(Image.fromarray(np.full((4, 4), 7, dtype=np.int32)), "TIFF")
    )[0]
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
    pixels, _ = codec.read_image(
        encode_image(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    )
    assert pixels[0, :, 0].tolist() == expected


def test_t24_cmyk_becomes_rgb():
    image = Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK")
    pixels, _ = codec.read_image(encode_image(image, "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - [200, 30, 40]).max() <= 6


def test_t24_transparency_is_composited_on_white():
    transparent = {"LA": (0, 0), "RGBA": (0, 0, 0, 0)}
    for mode, color in transparent.items():
        assert (
            codec.read_image(encode_image(Image.new(mode, (4, 4), color), "PNG"))[0] == 255
        ).all(), mode
    half = codec.read_image(encode_image(Image.new("RGBA", (4, 4), (255, 0, 0, 128)), "PNG"))[0]
    assert half[0, 0].tolist() == [255, 127, 127]


def test_t24_palette_with_transparency():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    pixels, _ = codec.read_image(encode_image(image, "PNG", transparency=bytes([0, 255])))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == [40, 50, 60]


def test_t24_one_bit():
    image = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("1")
    assert codec.read_image(encode_image(image, "PNG"))[0][..., 1].tolist() == [[0, 255], [255, 0]]


@pytest.mark.parametrize("format", ["GIF", "TIFF"])
def test_t25_first_frame_is_used(format):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    pixels, _ = codec.read_image(
        encode_image(frames[0], format, save_all=True, append_images=frames[1:])
    )
    assert pixels[4, 4].tolist() == [255, 0, 0]


def test_t21_damaged_files_are_named(tmp_path):
    jpeg = encode_image(Image.fromarray(upright_pixels()), "JPEG")
    for name, content in {
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "empty.jpg": b"",
        "text.jpg": b"hello, this is text" * 9,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BrokenImage, match=name) as error:
            codec.read_image(tmp_path / name)
        assert error.value.why
        assert error.value.hint


def test_t28_pipes_and_devices_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("pipe.jpg", "folder.jpg", "absent.jpg"):
        with pytest.raises(BrokenImage, match=name):
            codec.read_image(tmp_path / name)


@pytest.mark.parametrize(
    "side", [13_400, 30_000]
)  # above the limit, and above the double where Pillow itself raises
def test_t26_bombs_are_refused(side):
    with pytest.raises(BrokenImage, match="too large"):
        codec.read_image(bomb_header(side))


def bomb_header(side: int) -> bytes:
    content = bytearray(encode_image(Image.new("1", (8, 8)), "BMP"))
    content[18:26] = side.to_bytes(4, "little") * 2
    return bytes(content)


def test_t26_a_sliver_is_not_enlarged_without_bound():
    with pytest.raises(BrokenImage, match="too large"):
        codec.read_image(encode_image(Image.new("L", (20_000, 1)), "PNG"), short_side=256)


def test_eps_starts_no_program():
    with pytest.raises(BrokenImage):
        codec.read_image(encode_image(Image.new("RGB", (8, 8)), "EPS"))


def test_t21_any_truncation_is_a_broken_image_or_an_image():
    for format in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        whole = encode_image(Image.fromarray(upright_pixels()), format)
        for cut in range(1, len(whole), max(1, len(whole) // 25)):
            try:
                assert codec.read_image(whole[:cut])[0].dtype == np.uint8
            except BrokenImage:
                continue


def test_warning_filters_survive_threads():
    source = rotated_image(6, "TIFF")
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [codec.read_image(source) for _ in range(20)])
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
    paths = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert paths == ["a/10.png", "a/2.png", "b.JPG"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_t23_the_header_gives_the_upright_size(format, orientation):
    assert codec.read_size(rotated_image(orientation, format)) == (48, 80)


def test_exif_at_the_end_of_a_png_is_read():
    whole = rotated_image(6, "PNG")
    start = whole.index(b"eXIf") - 4
    chunk = whole[start : start + 12 + int.from_bytes(whole[start : start + 4], "big")]
    end = whole.index(b"IEND") - 4
    moved = whole[:start] + whole[start + len(chunk) : end] + chunk + whole[end:]
    assert codec.read_image(moved)[1] == codec.read_size(moved) == (48, 80)


def test_the_size_of_a_truncated_image_is_read_without_its_pixels(tmp_path):
    whole = encode_image(Image.fromarray(upright_pixels(400, 600)), "PNG")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert codec.read_size(tmp_path / "cut.png") == (400, 600)
    (tmp_path / "text.png").write_bytes(b"no picture")
    with pytest.raises(BrokenImage, match=r"text\.png"):
        codec.read_size(tmp_path / "text.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_t23_masks_are_read_as_they_are(orientation):
    values = np.arange(48 * 80, dtype=np.uint16).reshape(48, 80)
    image = Image.fromarray((values % 251).astype(np.uint8))
    if STORED_TRANSPOSE[orientation] is not None:
        image = image.transpose(STORED_TRANSPOSE[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (codec.read_index_mask(encode_image(image, "PNG", exif=exif)) == values % 251).all()
    image.putpalette([7, 7, 9] * 256)
    assert (codec.read_index_mask(encode_image(image, "PNG", exif=exif)) == values % 251).all()
    assert (
        codec.read_index_mask(encode_image(Image.merge("RGB", [image.convert("L")] * 3), "PNG"))
        == 7
    ).all()


def test_masks_of_other_depths():
    deep = np.array([[0, 1, 65535]], dtype=np.uint16)
    assert (
        codec.read_index_mask(encode_image(Image.fromarray(deep), "PNG")).tolist() == deep.tolist()
    )
    assert (
        codec.read_index_mask(encode_image(Image.fromarray(deep), "TIFF")).tolist() == deep.tolist()
    )
    assert codec.read_index_mask(
        encode_image(Image.fromarray(np.array([[True, False]])), "PNG")
    ).tolist() == [[1, 0]]
    assert codec.read_index_mask(
        encode_image(Image.merge("LA", [Image.new("L", (2, 1), 9)] * 2), "PNG")
    ).tolist() == [[9, 9]]
    for image in (Image.new("RGB", (4, 4), "red"), Image.new("F", (4, 4), 0.5)):
        with pytest.raises(BrokenImage, match="instead of class numbers"):
            codec.read_index_mask(encode_image(image, "TIFF"))


def test_small_helpers(tmp_path):
    assert codec.thumbnail(upright_pixels(), 20).shape == (12, 20, 3)
    assert encoding.to_data_uri(upright_pixels(), "png").startswith("data:image/png;base64,iVBOR")
    (tmp_path / "f").write_bytes(b"abc")
    assert codec.content_hash(tmp_path / "f").startswith("ba7816bf")
    assert printable(Path(os.fsdecode(b"caf\xe9/a.jpg"))) == "caf\\xe9/a.jpg"


def test_a_file_without_permission_is_not_called_damaged(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(BrokenImage, match=r"cannot be read.*Permission denied.*permissions"):
        codec.read_image(tmp_path / "a.png")
