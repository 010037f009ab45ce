"""Image files beyond JPEG and PNG: DICOM, NIfTI, HEIC, bands, depths, files that end early.

Inputs are written by the packages that define the formats, or byte for byte.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from imagecodecs import png_encode
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from conftest import make_stripes_folder, stripe_image
from foveate.api.check.core import check_data
from foveate.api.export import export
from foveate.api.fit.core import fit_recipe
from foveate.api.fit.pipeline import FitResult
from foveate.api.predict import predict
from foveate.data.formats import read_table
from foveate.data.value_range import measure_value_range
from foveate.errors import BrokenImage, DataError
from foveate.images import installed
from foveate.images.codec import read_header, read_image, read_size
from foveate.images.jpeg import ends_early
from foveate.images.nifti import count_slices
from foveate.images.pixels import Rendering
from foveate.recipe import Recipe, recipe_from, with_settings
from foveate.training.resolve import resolve_recipe
from foveate.types import Sample
from helpers import probe_of

# 48 x 32 px, left half red, right half blue
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABoQABAAAAAAAAADQAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABo"
    "dmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEA"
    "GEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAA"
    "AwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAADAAAAAB"
    "AAAAIAAAAAH////wAAAAAv///+AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAADxt"
    "ZGF0AAAAMCgBrwng44OcVP/2yT/+CDsvbkUlUCP+63TvOC//g+psVb9N2v09HTknqFlW8QkUPA=="
)


def write_dicom(path: Path, values: np.ndarray, **tags) -> Path:
    """Write stored values, (H, W) or (frames, H, W) uint16, with further tags."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta[0x20002].value, meta[0x20003].value
    dataset.Modality, dataset.SamplesPerPixel = "CT", 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = values.shape[-2:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 0
    if values.ndim == 3:
        dataset.NumberOfFrames = len(values)
    dataset.PixelData = values.astype("<u2").tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def fit_data(recipe: Recipe, folder: Path, **settings: object) -> FitResult:
    """Train on the folder `data`."""
    settings = {"data.path": str(folder / "data"), **settings}
    return fit_recipe(with_settings(recipe, settings), folder / "run")


def ramp(levels: int = 256, low: int = 0, high: int = 4095) -> np.ndarray:
    return np.tile(np.linspace(low, high, levels).round().astype(np.uint16), (20, 1))


# --- DICOM


def test_a_window_is_applied_as_the_standard_says(tmp_path):
    """PS3.3 C.11.2.1.2: linear between c - 0.5 - (w - 1) / 2 and c - 0.5 + (w - 1) / 2."""
    path = write_dicom(
        tmp_path / "a.dcm",
        ramp(4096),
        RescaleIntercept=-1024,
        RescaleSlope=1,
        WindowCenter=[40, 300],
        WindowWidth=[401, 1500],
    )
    gray = read_image(path)[0][0, :, 0].astype(float)
    units = np.arange(4096) - 1024
    expected = np.clip((units - 39.5) / 400 + 0.5, 0, 1) * 255
    assert np.abs(gray - expected).max() <= 0.51
    assert gray[1024 - 200] == 0
    assert gray[1024 + 240] == 255


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 2000) / 1000))),
        ("LINEAR_EXACT", lambda x: np.clip((x - 2000) / 1000 + 0.5, 0, 1)),
    ],
)
def test_the_functions_of_windows(tmp_path, function, expected):
    tags = {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": function}
    path = write_dicom(tmp_path / "a.dcm", ramp(4096), **tags)
    gray = read_image(path)[0][0, :, 0].astype(float)
    assert np.abs(gray - 255 * expected(np.arange(4096))).max() <= 0.51


def test_monochrome1_is_inverted_and_without_a_window_all_values_count(tmp_path):
    plain = read_image(write_dicom(tmp_path / "a.dcm", ramp(high=1000)))[0][..., 0]
    inverted = read_image(
        write_dicom(tmp_path / "b.dcm", ramp(high=1000), PhotometricInterpretation="MONOCHROME1")
    )[0][..., 0]
    assert (plain[0, 0], plain[0, -1]) == (0, 255)
    assert (plain.astype(int) + inverted == 255).all()


def test_padding_does_not_stretch_the_values(tmp_path):
    values = ramp(low=1000, high=2000)
    values[:5] = 65535
    path = write_dicom(tmp_path / "a.dcm", values, PixelPaddingValue=65535)
    gray = read_image(path)[0][10, :, 0]
    assert (gray[0], gray[-1]) == (0, 255)


def test_a_lookup_table_counts_before_a_window(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [256, 0, 8]
    table.LUTData = np.arange(255, -1, -1, dtype="<u2").tobytes()
    path = write_dicom(
        tmp_path / "a.dcm",
        ramp(high=255),
        VOILUTSequence=Sequence([table]),
        WindowCenter=1,
        WindowWidth=1,
    )
    assert (read_image(path)[0][0, :, 0] == np.arange(255, -1, -1)).all()


def test_colors_and_palettes(tmp_path):
    colors = np.zeros((10, 12, 3), np.uint8)
    colors[:, 6:] = 10, 200, 90
    path = write_dicom(
        tmp_path / "a.dcm",
        np.zeros((10, 12)),
        SamplesPerPixel=3,
        PlanarConfiguration=0,
        PhotometricInterpretation="RGB",
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelData=colors.tobytes(),
    )
    assert (read_image(path)[0] == colors).all()


def test_files_without_an_extension_are_found_by_their_content(tmp_path):
    for number, name in enumerate(("ill/IM-0001", "ill/1.2.840.7", "well/x.dcm", "well/y.dcm")):
        write_dicom(tmp_path / name, ramp(), PatientID=f"P{number}")
    (tmp_path / "well" / "README").write_text("no image")
    (tmp_path / "well" / "notes.2024").write_text("no image")
    table = read_table(tmp_path)
    assert [sample.key for sample in table.samples] == [
        *("ill/1.2.840.7", "ill/IM-0001", "well/x.dcm", "well/y.dcm")
    ]
    assert len({sample.group for sample in table.samples}) == 4
    header = read_header(tmp_path / "ill" / "IM-0001")
    assert (header.format, header.size) == ("DICOM", (20, 256))


def test_patients_are_groups_and_their_identifiers_are_nowhere(quick, tmp_path):
    """Two images of each patient stay on one side; no file of the run names a patient."""
    rng = np.random.default_rng(0)
    for label in ("lying", "upright"):
        for number in range(16):
            stripes = stripe_image(rng, label == "upright").mean(axis=-1) * 16
            write_dicom(
                tmp_path / "data" / label / f"{number:02d}.dcm",
                stripes.round(),
                PatientID=f"SECRET-{label}-{number // 2}",
                PatientName="Doe^Jane",
            )
    result = fit_data(quick, tmp_path)
    rows = [line.split(",") for line in (result.run / "splits.csv").read_text().splitlines()]
    header, *lines = rows
    split, group = header.index("split"), header.index("group")
    splits: dict[str, set[str]] = {}
    for line in lines:
        splits.setdefault(line[group], set()).add(line[split])
    assert len(splits) > 8  # patients with look-alike stripes are joined
    assert all(len(own) == 1 for own in splits.values())
    for file in result.run.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert b"SECRET" not in content
        assert b"Doe" not in content


def test_frames_and_slices_become_images_of_one_group(tmp_path):
    for label in ("ill", "well"):
        frames = np.stack([ramp(high=1000 * (index + 1)) for index in range(3)])
        write_dicom(tmp_path / label / "cine.dcm", frames, WindowCenter=2000, WindowWidth=4000)
        volume = np.zeros((10, 12, 4), np.float32)
        volume[2, 9, 1] = 100  # left, in front, second slice from below
        volume[9, 11, 3] = 5
        nibabel.save(
            nibabel.Nifti1Image(volume, np.diag([-1, 1, 1, 1])), tmp_path / label / "head.nii.gz"
        )
    table = read_table(tmp_path)
    keys = [sample.key for sample in table.samples if sample.key.startswith("ill/")]
    assert keys == [
        *(f"ill/cine.dcm#{index:04d}" for index in range(3)),
        *(f"ill/head.nii.gz#{index:04d}" for index in range(4)),
    ]
    assert {sample.group for sample in table.samples} == {
        *("ill/cine.dcm", "ill/head.nii.gz", "well/cine.dcm", "well/head.nii.gz")
    }
    assert "volumes whose slices are read as images" in str(table.notes[0])
    by_key = {sample.key: sample for sample in table.samples}
    means = [read_image(by_key[f"ill/cine.dcm#{index:04d}"].source)[0].mean() for index in (0, 2)]
    assert means[0] < means[1]
    # the axis x runs to the left in the file: canonical order mirrors it; the front is at the top
    pixels = read_image(by_key["ill/head.nii.gz#0001"].source)[0][..., 0]
    assert pixels.shape == (12, 10)
    assert np.argwhere(pixels == pixels.max()).tolist() == [[12 - 1 - 9, 10 - 1 - 2]]


def write_slide(path: Path, rng: np.random.Generator, color: tuple[int, int, int]) -> None:
    """A pyramid of tiles, as scanners write it: tissue on glass, 0.5 micrometers per pixel."""
    pixels = np.full((3000, 4000, 3), 243, np.uint8)
    noise = rng.integers(-20, 20, (2048, 2048, 1))
    pixels[:2048, 1024:3072] = (np.array(color) + noise).clip(0, 255)
    options = {
        "tile": (256, 256),
        "photometric": "rgb",
        "compression": "jpeg",
        "resolution": (20000, 20000),
        "resolutionunit": "CENTIMETER",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as file:
        for step in (1, 2, 4):
            file.write(pixels[::step, ::step], subfiletype=int(step > 1), **options)


def test_slides_are_read_as_tiles_with_tissue(tmp_path):
    rng = np.random.default_rng(0)
    write_slide(tmp_path / "ill" / "1.svs", rng, (180, 60, 120))
    write_slide(tmp_path / "well" / "2.svs", rng, (90, 60, 180))
    (tmp_path / "well" / "3.svs").write_bytes(b"II*\0 no slide")
    table = read_table(tmp_path)
    tiles = [sample for sample in table.samples if sample.group == "ill/1.svs"]
    # at 1 micrometer per pixel the tissue is 1024 px wide and begins at a tile's edge
    assert [sample.key for sample in tiles] == [
        f"ill/1.svs#{x:06d}-{y:06d}" for y in (0, 1024) for x in (1024, 2048)
    ]
    pixels, size = read_image(tiles[0].source)
    assert size == (512, 512)
    assert np.abs(pixels.mean((0, 1)) - (180, 60, 120)).max() < 5
    assert "whole slides" in str(table.notes[0])
    assert "well/3.svs" in {sample.key for sample in table.samples}


def test_damaged_medical_files_are_named(tmp_path):
    (tmp_path / "cut.dcm").write_bytes(
        write_dicom(tmp_path / "whole.dcm", ramp()).read_bytes()[:900]
    )
    report = write_dicom(tmp_path / "report.dcm", ramp(), Modality="SR")
    from pydicom import dcmread

    dataset = dcmread(report)
    del dataset.PixelData
    dataset.save_as(report)
    with pytest.raises(BrokenImage, match="cannot be decoded"):
        read_image(tmp_path / "cut.dcm")
    with pytest.raises(BrokenImage, match=r"no pixels.*its modality is SR"):
        read_image(report)
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "x.nii").write_bytes(b"no volume")
    make_stripes_folder(tmp_path / "data")
    assert "a/x.nii" in {sample.key for sample in read_table(tmp_path / "data").samples}
    with pytest.raises(BrokenImage, match=r"this is a volume.*read its slices"):
        read_image(tmp_path / "data" / "a" / "x.nii")


def test_files_that_claim_too_much_memory_are_refused_before_decoding(tmp_path):
    """A few bytes of header can state any size."""
    path = write_dicom(tmp_path / "a.dcm", ramp(), Rows=60000, Columns=60000)
    with pytest.raises(BrokenImage, match=r"too large to decode safely.*takes 122,400 MB"):
        read_image(path)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8, 5), np.float64), planarconfig="contig")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages.first.tags
        offsets = [tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
    for offset in offsets:
        content[offset : offset + 2] = (60000).to_bytes(2, "little")
    with pytest.raises(BrokenImage, match="too large to decode safely"):
        read_image(bytes(content))
    header = nibabel.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    (tmp_path / "a.nii").write_bytes(header.binaryblock + b"\0" * 100)
    with pytest.raises(BrokenImage, match="volume cannot be read"):
        count_slices(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("name", "package", "kind"), [("x.dcm", "pydicom", "DICOM"), ("x.heic", "pi-heif", "HEIC")]
)
def test_a_reader_that_is_not_installed_is_named(tmp_path, monkeypatch, name, package, kind):
    (tmp_path / name).write_bytes(HEIC if kind == "HEIC" else b"\0" * 128 + b"DICM" + b"\0" * 99)
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    with pytest.raises(BrokenImage, match=f"this is {kind}.*called {package}.*imaging"):
        read_image(tmp_path / name)


# --- bands and depths


def test_heic_is_read(tmp_path):
    (tmp_path / "a.HEIC").write_bytes(HEIC)
    pixels, size = read_image(tmp_path / "a.HEIC")
    assert size == (32, 48)
    assert np.abs(pixels[:, :20].astype(int) - (220, 40, 40)).max() < 12
    assert np.abs(pixels[:, 28:].astype(int) - (40, 40, 220)).max() < 12
    assert (read_image(HEIC)[0] == pixels).all()


def test_an_infrared_band_is_no_transparency(tmp_path):
    """As GDAL writes four bands: with and without a word on what the fourth one is."""
    rng = np.random.default_rng(0)
    bands = rng.integers(20, 240, (16, 18, 4), dtype=np.uint8)
    for name, options in (
        ("unspecified.tif", {"photometric": "rgb", "extrasamples": [0]}),
        ("called_alpha.tif", {"photometric": "rgb", "extrasamples": [2]}),
        ("gray.tif", {"photometric": "minisblack", "extrasamples": [0, 0, 0]}),
        ("separate.tif", {"photometric": "minisblack", "planarconfig": "separate"}),
    ):
        data = np.moveaxis(bands, -1, 0) if name == "separate.tif" else bands
        tifffile.imwrite(tmp_path / name, data, **options)
        assert (read_image(tmp_path / name)[0] == bands[..., :3]).all(), name
        chosen = read_image(tmp_path / name, rendering=Rendering(bands=(4, 2, 1)))[0]
        assert (chosen == bands[..., [3, 1, 0]]).all(), name
        single = read_image(tmp_path / name, rendering=Rendering(bands=(4,)))[0]
        assert (single == bands[..., 3:]).all(), name


def test_transparency_in_a_tiff_stays_transparency(tmp_path):
    pixels = np.full((16, 18, 4), 50, np.uint8)
    pixels[:8, :, 3], pixels[8:, :, 3] = 0, 255
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    read = read_image(tmp_path / "a.tif")[0]
    assert (read[:8] == 255).all()
    assert (read[8:] == 50).all()


def test_missing_bands_are_refused_with_what_there_is(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 9, 5), np.uint8), planarconfig="contig")
    with pytest.raises(BrokenImage, match=r"data.bands are 6, and it has 5.*from 1 to 5"):
        read_image(tmp_path / "a.tif", rendering=Rendering(bands=(6,)))


@pytest.mark.parametrize("kind", ["float32", "uint16", "int32"])
def test_values_are_on_one_scale_for_the_whole_set(tmp_path, kind):
    """Without a range an image is stretched by itself: two of different brightness look alike."""
    dark, bright = (np.tile(np.linspace(0, top, 20), (9, 1)).astype(kind) for top in (900, 9000))
    tifffile.imwrite(tmp_path / "dark.tif", dark)
    tifffile.imwrite(tmp_path / "bright.tif", bright)
    on_one_scale = Rendering(value_range=(0, 9000))
    first, second = (
        read_image(tmp_path / name, rendering=on_one_scale)[0].max()
        for name in ("dark.tif", "bright.tif")
    )
    assert (first, second) == (26, 255)  # 900 / 9000 * 255 = 25.5


def write_bands(path: Path, rng: np.random.Generator, upright: bool) -> Path:
    """Float values beyond 255; the stripes are in the fourth band, the others are noise."""
    bands = rng.uniform(0, 3000, (40, 40, 4)).astype(np.float32)
    bands[..., 3] = stripe_image(rng, upright)[..., 0].astype(np.float32) * 10
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig")
    return path


def test_bands_and_range_of_a_run_hold_for_all_that_it_reads(quick, tmp_path):
    """The label is in the fourth band alone; runs and exported files see it, and nothing else."""
    rng = np.random.default_rng(0)
    for label in ("lying", "upright"):
        for number in range(16):
            write_bands(tmp_path / "data" / label / f"{number:02d}.tif", rng, label == "upright")
    settings = {"data.bands": [4], "data.value_range": [0, 2550]}
    result = fit_data(quick, tmp_path, **settings)
    file = tmp_path / "data" / "lying" / "00.tif"
    bands = tifffile.imread(file)
    bands[..., :3] = 0
    tifffile.imwrite(tmp_path / "same.tif", bands, photometric="minisblack", planarconfig="contig")
    bands[..., 3] /= 2
    tifffile.imwrite(tmp_path / "dark.tif", bands, photometric="minisblack", planarconfig="contig")
    files = [file, tmp_path / "same.tif", tmp_path / "dark.tif"]
    exported = export(result.run, to="onnx", out=tmp_path / "export").files[0].path
    of_run, of_file = (
        np.array([each.prediction.scores for each in predict(model, files)])
        for model in (result.run, exported)
    )
    np.testing.assert_allclose(of_run, of_file, atol=1e-4)
    assert (of_run[0] == of_run[1]).all()
    assert np.abs(of_run[0] - of_run[2]).max() > 1e-4


def test_colors_of_16_bits_keep_all_of_them(tmp_path):
    """Sensors store a few hundred of 65,536 levels; Pillow alone would keep three of them."""
    values = np.random.default_rng(0).integers(200, 900, (20, 24, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    (tmp_path / "a.png").write_bytes(png_encode(values))
    for name in ("a.tif", "a.png"):
        pixels = read_image(tmp_path / name, rendering=Rendering(value_range=(200, 900)))[0]
        assert np.abs(pixels - (values - 200.0) / 700 * 255).max() <= 0.51, name
        assert read_header(tmp_path / name).is_deep
        table = (Sample(tmp_path / name, name),)
        assert measure_value_range(table, Rendering()) == (0, 1023)
        plain = read_image(tmp_path / name)[0]
        assert (plain == (values.astype(np.uint32) + 128) // 257).all(), name


def test_features_in_the_cache_belong_to_the_bands_of_the_run(quick, tmp_path):
    rng = np.random.default_rng(0)
    for label in ("lying", "upright"):
        for number in range(16):
            write_bands(tmp_path / "data" / label / f"{number:02d}.tif", rng, label == "upright")
    probe = probe_of(quick, {"data.path": str(tmp_path / "data"), "tuning": "probe"})
    losses = []
    for number, bands in enumerate(([1], [4])):
        recipe = with_settings(probe, {"data.bands": bands})
        scores = fit_recipe(recipe, tmp_path / str(number)).evaluation.scores
        losses.append(scores.numbers["log_loss"].value)
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("kind", "top", "expected"),
    [
        ("uint8", 200, None),
        ("uint16", 3500, (0, 4095)),
        ("uint16", 60000, None),
        ("float32", 0.8, (0, 1)),
        ("float32", 130, (0, 255)),
        ("float32", 900, "percentiles"),
    ],
)
def test_the_range_of_a_set_is_measured_and_said(quick, tmp_path, kind, top, expected):
    rng = np.random.default_rng(0)
    for label in ("lying", "upright"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(8):
            values = stripe_image(rng, label == "upright")[..., 0] / 255 * top * (number + 1) / 8
            tifffile.imwrite(tmp_path / "data" / label / f"{number}.tif", values.astype(kind))
    recipe = with_settings(quick, {"data.path": str(tmp_path / "data")})
    table = read_table(tmp_path / "data")
    resolved, decisions = resolve_recipe(recipe, table)
    found = resolved.data.value_range
    if expected == "percentiles":
        assert found[0] < 100
        assert 0.8 * top < found[1] <= top
    else:
        assert found == expected
    said = [decision.field for decision in decisions]
    assert ("data.value_range" in said) == (expected is not None)
    stated = with_settings(recipe, {"data.value_range": [1, 2]})
    assert resolve_recipe(stated, table)[0].data.value_range == (1, 2)


# --- JPEG that ends early


def jpeg(size=(224, 300), **options) -> bytes:
    y, x = np.mgrid[: size[0], : size[1]]
    waves = 127 + 90 * np.sin(x / 7 + y / 11) + np.random.default_rng(0).normal(0, 9, size)
    buffer = io.BytesIO()
    Image.fromarray(waves.clip(0, 255).astype(np.uint8)).convert("RGB").save(
        buffer, format="JPEG", quality=90, **options
    )
    return buffer.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_last_bytes_is_read(tmp_path, progressive):
    whole = jpeg(progressive=progressive)
    (tmp_path / "cut.jpg").write_bytes(whole[:-20])
    pixels, size = read_image(tmp_path / "cut.jpg")
    expected = read_image(whole)[0]
    assert size == (224, 300)
    assert np.abs(pixels[:200].astype(int) - expected[:200]).max() <= 2 + 20 * progressive
    assert ends_early(tmp_path / "cut.jpg")
    assert ends_early(whole[:-20])
    assert not ends_early(whole)
    assert not ends_early(whole + b"\0" * 100)  # cameras pad their files
    assert not ends_early(whole + b"trailer" * 9000)


def test_a_jpeg_is_given_up_where_a_tenth_is_missing(tmp_path):
    whole = jpeg()
    (tmp_path / "cut.jpg").write_bytes(whole[: int(0.7 * len(whole))])
    with pytest.raises(BrokenImage, match=r"about \d+% of the image is missing; up to 10%"):
        read_image(tmp_path / "cut.jpg")
    progressive = jpeg(progressive=True)
    second_scan = progressive.index(b"\xff\xda", progressive.index(b"\xff\xda") + 1)
    with pytest.raises(BrokenImage, match="ends early"):
        read_image(progressive[: second_scan + 50])


def test_a_black_edge_does_not_count_as_missing(tmp_path):
    pixels = np.zeros((200, 200, 3), np.uint8)
    pixels[:120] = np.random.default_rng(0).integers(0, 255, (120, 200, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=90)
    read_image(buffer.getvalue()[:-20])


def test_files_that_end_early_are_counted_and_named(quick, tmp_path, capsys):
    data = make_stripes_folder(tmp_path / "data")
    buffer = io.BytesIO()
    Image.open(data / "lying" / "00.png").convert("RGB").resize((96, 96)).save(buffer, "JPEG")
    (data / "lying" / "cut.jpg").write_bytes(buffer.getvalue()[:-20])
    result = check_data(recipe_from(data, {}, {}), tmp_path / "check", 1000, plan=False)
    (issue,) = [issue for issue in result.issues if issue.kind.id == "image_cut_off"]
    assert [location.name for location in issue.locations] == ["lying/cut.jpg"]
    run = fit_data(quick, tmp_path).run
    assert "1 image file ends early" in capsys.readouterr().out
    (row,) = predict(run, [data / "lying" / "cut.jpg"])
    assert row.prediction is not None
    assert "cut.jpg ends early" in capsys.readouterr().out


# --- what is no image


def test_other_media_are_refused_with_the_way_out(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + b"\0" * 90)
    (tmp_path / "photos.zip").write_bytes(b"PK\x03\x04" + b"\0" * 90)
    with pytest.raises(BrokenImage, match=r"this is a video.*ffmpeg -i VIDEO"):
        read_image(tmp_path / "clip.mp4")
    with pytest.raises(BrokenImage, match=r"this is an archive.*unpack it"):
        read_image(tmp_path / "photos.zip")
    with pytest.raises(BrokenImage, match="this is a video"):
        read_size(b"\0\0\0\x18ftypmp42" + b"\0" * 90)


def test_captions_as_one_object(tmp_path):
    make_stripes_folder(tmp_path / "data", 3)
    texts = {
        "lying/00.png": "lines that lie",
        "upright/00.png": ["lines that stand", "upright lines"],
        "gone.png": "nothing",
    }
    (tmp_path / "data" / "captions.json").write_text(json.dumps(texts))
    table = read_table(tmp_path / "data" / "captions.json")
    assert table.format == "captions"
    assert [sample.target.sentences for sample in table.samples] == [
        ("lines that lie",),
        ("lines that stand", "upright lines"),
    ]
    assert "1 of 3 images are missing" in str(table.notes[0])
    (tmp_path / "data" / "captions.json").write_text('{"a.png": "x", "b.png": 3}')
    with pytest.raises(DataError):
        read_table(tmp_path / "data" / "captions.json")
