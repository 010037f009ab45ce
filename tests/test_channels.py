"""Other channels than red, green and blue, and more than 256 levels of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

from conftest import make_stripes_folder, stripe_image
from foveate.api.check.core import check_data
from foveate.api.check.inspection import BANDS
from foveate.api.evaluate import evaluate
from foveate.api.explain import explain
from foveate.api.export import export
from foveate.api.fit.core import fit_recipe
from foveate.api.fit.pipeline import FitResult
from foveate.api.load import load
from foveate.api.predict import predict
from foveate.data.image_cache import ImageCache, Overflow
from foveate.data.transforms import evaluation_transform, training_transform
from foveate.errors import UsageError
from foveate.images.codec import read_image, resize, thumbnail
from foveate.images.pixels import Rendering
from foveate.modeling.backbones import family_of
from foveate.modeling.first_layer import widen_first_layers
from foveate.recipe import AugmentRecipe, Recipe, recipe_from, with_settings
from foveate.run.folder import Run
from foveate.types import Batch, InputSpec

FOUR = Rendering(bands=(1, 2, 3, 4))
DEEP = Rendering(bits=16)


def write_bands(path: Path, rng: np.random.Generator, upright: bool) -> Path:
    """Four bands of 12 bits in 16, of which the fourth alone has stripes; the others are noise."""
    bands = rng.integers(0, 4096, (40, 40, 4), dtype=np.uint16)
    bands[..., 3] = stripe_image(rng, upright)[..., 0].astype(np.uint16) * 16
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig")
    return path


@pytest.fixture(scope="module")
def four_bands(tmp_path_factory) -> Path:
    """Images of two classes that differ in the fourth band only."""
    folder, rng = tmp_path_factory.mktemp("bands"), np.random.default_rng(0)
    for label in ("lying", "upright"):
        for number in range(24):
            write_bands(folder / label / f"{number:02d}.tif", rng, label == "upright")
    return folder


def fit_pretrained(data: Path, out: Path, **settings: object) -> FitResult:
    """Fit a probe to the features of a pretrained network."""
    always = {"data.path": str(data), "backbone.size": 64, "device": "cpu"}
    return fit_recipe(with_settings(Recipe(), {**always, **settings}), out)


@pytest.fixture(scope="module")
def bands_run(four_bands, tmp_path_factory) -> FitResult:
    folder = tmp_path_factory.mktemp("run")
    return fit_pretrained(four_bands, folder / "run", **{"data.bands": [1, 2, 3, 4]})


@pytest.fixture(scope="module")
def small_run(quick, four_bands, tmp_path_factory) -> Path:
    """A run of a tiny network, with every parameter trained, which has learned little."""
    settings = {"data.path": str(four_bands), "data.bands": [1, 2, 3, 4]}
    recipe = with_settings(quick, {**settings, "augment.policy": "trivial", "augment.color": 0.2})
    return fit_recipe(recipe, tmp_path_factory.mktemp("small") / "run").run


# --- channels


def test_what_only_the_fourth_band_shows_is_learned_from_four_bands(
    four_bands, bands_run, tmp_path
):
    four = bands_run.evaluation.scores.numbers["accuracy"].value
    result = fit_pretrained(four_bands, tmp_path / "three", **{"data.bands": [1, 2, 3]})
    three = result.evaluation.scores.numbers["accuracy"].value
    assert four >= 0.9
    assert three <= 0.75


def test_the_normalization_of_bands_is_measured_and_written_into_the_run(bands_run, four_bands):
    run = Run(bands_run.run)
    data = run.recipe().data
    train = [row["path"] for row in run.splits() if row["split"] == "train"]
    rendering = Rendering((1, 2, 3, 4), (0, 4095), 16)
    values = np.stack([read_image(four_bands / path, 64, rendering)[0] for path in train]) / 65535
    np.testing.assert_allclose(data.mean, values.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(data.std, values.std((0, 1, 2)), atol=1e-4)
    assert load(bands_run.run).model.backbone.input.mean == tuple(data.mean)


@pytest.mark.usefixtures("quick_export")
def test_exported_files_see_the_bands_of_the_run(small_run, four_bands, tmp_path):
    exported = export(small_run, to="onnx", out=tmp_path / "export").files[0].path
    bands = tifffile.imread(four_bands / "lying" / "00.tif")
    bands[..., 3] = tifffile.imread(four_bands / "upright" / "00.tif")[..., 3]
    changed = tmp_path / "changed.tif"
    tifffile.imwrite(changed, bands, photometric="minisblack", planarconfig="contig")
    files = [four_bands / "lying" / "00.tif", changed]
    of_run, of_file = (
        np.array([each.prediction.scores for each in predict(model, files)])
        for model in (small_run, exported)
    )
    np.testing.assert_allclose(of_run, of_file, atol=1e-4)
    assert np.abs(of_file[0] - of_file[1]).max() > 3e-4
    metadata = load(exported).metadata
    assert metadata["rendering"]["bands"] == [1, 2, 3, 4]
    assert "the bands 1, 2, 3, 4" in metadata["preprocessing"]
    assert "float32" in metadata["preprocessing"]


def test_a_server_decodes_the_bands_of_the_run(bands_run, four_bands):
    file, predictor = four_bands / "upright" / "00.tif", load(bands_run.run)
    posted = predictor.predict_decoded([predictor.decode(file.read_bytes())])[0]
    assert posted.names == ("upright",)
    np.testing.assert_allclose(posted.scores, predict(bands_run.run, file)[0].prediction.scores)


def test_check_does_not_say_that_chosen_bands_are_left_out(four_bands, tmp_path):
    for bands, is_said in (([], True), ([1, 2, 3, 4], False)):
        recipe = recipe_from(four_bands, {}, {"data.bands": bands})
        result = check_data(recipe, tmp_path / str(is_said), 100, plan=False)
        kinds = {issue.kind.id for issue in result.issues}
        assert (BANDS.id in kinds) == is_said


def test_images_without_the_bands_are_named(bands_run, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "rgb.png")
    Image.new("L", (40, 40)).save(tmp_path / "gray.png")
    rgb, gray = predict(bands_run.run, [tmp_path / "rgb.png", tmp_path / "gray.png"])
    assert "data.bands are 1, 2, 3, 4, and it has 3" in rgb.error
    assert "and it has 1" in gray.error


def test_sheets_show_the_first_three_bands(bands_run, four_bands, tmp_path):
    pixels = read_image(four_bands / "lying" / "00.tif", rendering=FOUR)[0]
    assert (thumbnail(pixels, 40) == pixels[..., :3]).all()
    two = read_image(four_bands / "lying" / "00.tif", rendering=Rendering((4, 1)))[0]
    assert (thumbnail(two, 40) == two[..., :1]).all()
    result = explain(bands_run.run, [four_bands / "lying" / "00.tif"], out=tmp_path / "sheets")
    assert len(result.explanations) >= 1
    assert (bands_run.evaluation.folder / "report.html").is_file()
    with pytest.raises(UsageError, match="corruptions are defined for three bands"):
        evaluate(bands_run.run, corrupt=True)


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", 6), ("vit_tiny_patch16_224", 12), ("crossvit_tiny_240", 9), ("mini_swin", 6)],
)
def test_equal_channels_give_what_three_equal_ones_gave(name, channels):
    """As the first layer is widened, by multiples of three; some networks have several stems."""
    before, after = (family_of(name).open(name, "none").eval() for _ in range(2))
    after.load_state_dict(before.state_dict())
    after.widen_input(channels)
    gray = torch.rand(1, 1, after.input.size, after.input.size)
    with torch.inference_mode():
        expected = before(gray.expand(-1, 3, -1, -1), before.provides).pooled
        features = after(gray.expand(-1, channels, -1, -1), after.provides).pooled
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-3)


def test_the_first_layer_is_widened_to_any_number_of_channels():
    backbone = family_of("resnet18").open("resnet18", "none")
    weights = backbone.network.conv1.weight.detach().clone()
    backbone.widen_input(4)
    widened = backbone.network.conv1.weight
    torch.testing.assert_close(widened, weights[:, [0, 1, 2, 0]] * 3 / 4)
    mean, std = backbone.input.mean, backbone.input.std
    assert (len(mean), len(set(mean)), len(std)) == (4, 1, 4)


def test_networks_without_a_first_convolution_are_refused(quick):
    # the first layer of a TResNet reads squares of 4 x 4 px as 48 channels
    assert not widen_first_layers(nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 8, 3)), 4)
    settings = {"backbone.name": "unet_small", "task": "generate", "data.bands": [1, 2, 3, 4]}
    recipe = with_settings(quick, settings)
    with pytest.raises(UsageError, match=r"takes three bands only.*a network of timm"):
        fit_recipe(recipe, None)


def test_mean_and_deviation_can_be_stated_one_for_each_channel(quick, four_bands, tmp_path):
    settings = {"data.path": str(four_bands), "data.bands": [4, 1], "training.epochs": 1}
    stated = {"data.mean": [0.5, 0.4], "data.std": [0.25, 0.2]}
    recipe = with_settings(quick, {**settings, **stated, "data.bands": [4, 1, 2]})
    with pytest.raises(UsageError, match="2 values for 3 channels"):
        fit_recipe(recipe, None)
    run = fit_recipe(with_settings(quick, {**settings, **stated}), tmp_path / "run").run
    spec = load(run).model.backbone.input
    assert (spec.mean, spec.std) == ((0.5, 0.4), (0.25, 0.2))


@pytest.mark.parametrize("policy", ["trivial", "rand"])
@pytest.mark.parametrize("bits", [8, 16])
def test_augmentation_of_other_channels_leaves_out_what_is_defined_for_colors(policy, bits):
    spec = InputSpec(16, (0.5,) * 5, (0.2,) * 5)
    recipe = AugmentRecipe(policy=policy, color=0.4, rotate=10)
    transform = training_transform(spec, "crop", recipe)
    kind = np.uint8 if bits == 8 else np.uint16
    pixels = np.random.default_rng(0).integers(0, 2**bits, (24, 20, 5)).astype(kind)
    seen = []
    for seed in range(60):
        torch.manual_seed(seed)
        image = transform(pixels, (24, 20), {})[0]
        assert image.shape == (5, 16, 16)
        assert image.dtype == (torch.uint8 if bits == 8 else torch.float32)
        assert 0 <= image.min() <= image.max() <= 255
        seen.append(image.float())
    assert torch.stack(seen).std(0).mean() > 1  # something was changed


# --- levels


def write_faint(path: Path, rng: np.random.Generator, upright: bool) -> Path:
    """Gray of 16 bits: noise of one of 256 levels in which stripes are hidden, and a bright dot."""
    stripes = stripe_image(rng, upright)[..., 0].astype(np.uint16) % 256
    values = 30_000 + stripes // 2  # of 65,535: within half of an 8-bit level of 257
    values[:2, :2], values[-2:, -2:] = 65_535, 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def test_levels_below_an_8_bit_step_reach_the_network(tmp_path):
    file = write_faint(tmp_path / "a.png", np.random.default_rng(0), upright=True)
    coarse, fine = (read_image(file, rendering=each)[0] for each in (Rendering(), DEEP))
    assert coarse.dtype == np.uint8
    assert len(np.unique(coarse[4:-4, 4:-4])) <= 2
    assert fine.shape == coarse.shape
    assert len(np.unique(fine[4:-4, 4:-4])) > 50
    spec = InputSpec(32, (0.5,) * 3, (0.25,) * 3)
    image = evaluation_transform(spec, "crop")(read_image(file, 32, DEEP)[0], (40, 40), {})[0]
    assert image.dtype == torch.float32
    assert len(image[0, 8:-8, 8:-8].unique()) > 50


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_classes_that_differ_by_less_than_an_8_bit_step_are_learned(tmp_path, suffix):
    rng = np.random.default_rng(0)
    for label in ("lying", "upright"):
        for number in range(24):
            write_faint(tmp_path / f"data/{label}/{number:02d}{suffix}", rng, label == "upright")
    settings = {"data.near_duplicates": 1.0}
    fine = fit_pretrained(tmp_path / "data", tmp_path / "fine", **settings)
    assert fine.evaluation.scores.numbers["accuracy"].value >= 0.9
    assert Run(fine.run).recipe().data.bits == 16
    if suffix == ".png":
        coarse = fit_pretrained(tmp_path / "data", tmp_path / "8", **settings, **{"data.bits": 8})
        assert coarse.evaluation.scores.numbers["accuracy"].value <= 0.75


def test_colors_of_16_bits_and_floats_keep_their_levels(tmp_path):
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 65536, (9, 7, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "colors.tif", colors, photometric="rgb")
    assert (read_image(tmp_path / "colors.tif", rendering=DEEP)[0] == colors).all()
    shares = rng.random((9, 7)).astype(np.float32)
    tifffile.imwrite(tmp_path / "shares.tif", shares)
    pixels = read_image(tmp_path / "shares.tif", rendering=DEEP)[0]
    np.testing.assert_allclose(pixels[..., 1] / 65535, shares, atol=1 / 65535)
    Image.fromarray((colors // 257).astype(np.uint8)).save(tmp_path / "bytes.png")
    of_bytes = read_image(tmp_path / "bytes.png", rendering=DEEP)[0]
    assert (of_bytes == colors // 257 * 257).all()
    np.testing.assert_array_equal(thumbnail(of_bytes, 9), colors // 257)


def test_turned_images_of_16_bits_are_upright(tmp_path):
    gray = np.random.default_rng(0).integers(0, 65536, (20, 30), dtype=np.uint16)
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        Image.fromarray(gray).save(tmp_path / "a.png", exif=exif)
        coarse, fine = (read_image(tmp_path / "a.png", None, each) for each in (Rendering(), DEEP))
        assert coarse[1] == fine[1]
        assert (thumbnail(fine[0], 30) == coarse[0]).all()


def test_resizing_keeps_type_and_levels():
    values = np.random.default_rng(0).integers(0, 65536, (40, 40, 4), dtype=np.uint16)
    small = resize(values, (20, 10))
    assert (small.shape, small.dtype) == ((20, 10, 4), np.uint16)
    of_bytes = resize((values // 257).astype(np.uint8), (20, 10))
    assert np.abs(small / 257 - of_bytes).max() < 1.5


def test_normalizing_twice_is_impossible_because_the_input_is_kept():
    """A part of a batch that did not fit into memory is normalized again."""
    spec = InputSpec(4, (0.5,) * 3, (0.25,) * 3)
    images = torch.full((2, 3, 4, 4), 51.0)
    batch = Batch(images, [{}, {}], torch.zeros(2, 4), torch.zeros(2, 2), torch.arange(2), spec)
    first, second = batch.to("cpu"), batch.to("cpu")
    torch.testing.assert_close(first.images, torch.full((2, 3, 4, 4), -1.2))
    torch.testing.assert_close(second.images, first.images)


def test_the_cache_on_disk_keeps_16_bits(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (5, 6, 4), dtype=np.uint16)
    overflow = Overflow()
    overflow.put(tmp_path / "a", (pixels, (5, 6)))
    kept = overflow.get(tmp_path / "a")
    assert kept is not None
    assert kept[0].dtype == np.uint16
    assert (kept[0] == pixels).all()


def test_images_of_8_bits_are_read_as_bytes_as_before(tmp_path, quick):
    make_stripes_folder(tmp_path / "data", 2)
    file = tmp_path / "data" / "lying" / "00.png"
    assert ImageCache(32, "crop", keep=False).read(file)[0].dtype == np.uint8
    assert not Recipe().is_set("data.bits")
