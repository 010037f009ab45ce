"""Copies and groups: edited images, names that tools give, sequences, columns of patients."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import foveate
from conftest import stripe_image
from foveate.api.check import check
from foveate.data.copy_names import name_families, numbered_names
from foveate.data.duplicates import gray_thumbnail, standardize, tint, unite
from foveate.data.formats import read_table
from foveate.data.group_columns import with_groups
from foveate.data.grouping import Groups, find_groups, near_copy_pairs
from foveate.data.keypoints import MIRROR, coefficients, find_keypoints
from foveate.data.near_copies import _MAX_CANDIDATES, _candidates, _Votes
from foveate.data.records import group_rank
from foveate.data.scan import scan
from foveate.data.sequences import find_sequences
from foveate.data.splits import count_divided, make_splits
from foveate.errors import UsageError
from foveate.recipe import DataRecipe


def scene(seed: int, size: tuple[int, int] = (150, 120), shapes: int = 30) -> Image.Image:
    """A picture of its own: polygons and ellipses on a shaded ground."""
    rng = random.Random(seed)
    shade = np.linspace(rng.randint(60, 120), rng.randint(130, 200), size[0])
    ground = np.tile(shade[None, :, None], (size[1], 1, 3)).astype(np.uint8)
    image = Image.fromarray(ground)
    pen = ImageDraw.Draw(image)
    for _ in range(shapes):
        x, y, radius = rng.randint(0, size[0]), rng.randint(0, size[1]), rng.randint(5, 18)
        color = tuple(rng.randint(0, 255) for _ in range(3))
        box = (x - radius, y - rng.randint(5, radius), x + radius, y + rng.randint(5, radius))
        if rng.random() < 0.5:
            pen.ellipse(box, fill=color)
        else:
            corners = [(x + rng.randint(-24, 24), y + rng.randint(-24, 24)) for _ in range(4)]
            pen.polygon(corners, fill=color)
    return image


def fingerprints(images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    pixels = [np.asarray(image) for image in images]
    return np.stack([gray_thumbnail(each) for each in pixels]), np.stack(list(map(tint, pixels)))


def clusters_of(images: list[Image.Image], threshold: float = 0.97) -> np.ndarray:
    clusters = np.arange(len(images))
    for pairs in near_copy_pairs(*fingerprints(images), threshold):
        clusters = unite(clusters, pairs)
    return clusters


def crop(image: Image.Image, share: float, seed: int) -> Image.Image:
    width, height = (int(share * side) for side in image.size)
    rng = random.Random(seed)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def warm(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image) * np.array([0.95, 0.85, 0.7]) + 12
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


EDITS = {
    "mirrored": lambda image, seed: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned by 90": lambda image, seed: image.transpose(Image.Transpose.ROTATE_90),
    "turned by 10": lambda image, seed: image.rotate(
        10 - 20 * (seed % 2), Image.Resampling.BICUBIC
    ),
    "cropped": lambda image, seed: crop(image, 0.8, seed),
    "mirrored and cropped": lambda image, seed: crop(EDITS["mirrored"](image, seed), 0.85, seed),
    "scaled": lambda image, seed: image.resize((70, 90), Image.Resampling.BICUBIC),
    "recolored": lambda image, seed: warm(image),
}


# --- pixels


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    return [scene(seed) for seed in range(60)]


@pytest.mark.parametrize("name", EDITS)
def test_edited_copies_are_found_and_nothing_else_is(scenes, name):
    copies = [EDITS[name](image, seed) for seed, image in enumerate(scenes[:40])]
    clusters = clusters_of([*scenes, *copies])
    found = clusters[:40] == clusters[60:]
    assert found.mean() >= 0.9  # photos are easier: bench/near_copies.py
    assert len(set(clusters.tolist())) == 100 - found.sum()  # no two scenes are together


def test_a_covered_part_hides_no_copy(scenes):
    copies = []
    for number, image in enumerate(scenes[:30]):
        copy = image.copy()
        copy.paste((90, 90, 90), (10 + number, 10, 50 + number, 45))
        copies.append(copy)
    clusters = clusters_of([*scenes, *copies])
    assert (clusters[:30] == clusters[60:]).mean() > 0.8


def test_a_mirrored_image_has_the_same_keypoints_with_other_signs(scenes):
    pair = [scenes[0], EDITS["mirrored"](scenes[0], 0)]
    keypoints = find_keypoints(fingerprints(pair)[0])
    count = int(keypoints.counts.min())
    assert 10 < count >= keypoints.counts.max() - 3
    one, other = coefficients(keypoints.patches)[:, :count]
    assert np.median(((one * MIRROR) @ other.T).max(1)) > 0.98
    assert np.median((one @ other.T).max(1)) < 0.9


def test_one_scene_in_two_colors_is_two_images(scenes):
    grays = [np.asarray(image.convert("L"), dtype=float)[..., None] for image in scenes[:20]]
    red, blue = (
        [Image.fromarray((gray * np.array(color)).astype(np.uint8)) for gray in grays]
        for color in ([1, 0.5, 0.5], [0.5, 0.5, 1])
    )
    turned = [EDITS["turned by 90"](image, 0) for image in blue]
    clusters = clusters_of([*red, *blue, *turned])
    assert (clusters[20:40] == clusters[40:]).all()
    assert not set(clusters[:20].tolist()) & set(clusters[20:].tolist())


def test_stripes_are_located_nowhere():
    rng = np.random.default_rng(0)
    images = [Image.fromarray(stripe_image(rng, number % 2 == 0)) for number in range(40)]
    assert len(set(clusters_of(images).tolist())) == 40


def test_candidates_of_many_copies_stay_few(scenes):
    rng = np.random.default_rng(0)
    base = np.asarray(scenes[3], dtype=float)
    images = [
        Image.fromarray((base + rng.normal(0, 6, base.shape)).clip(0, 255).astype(np.uint8))
        for _ in range(150)
    ]
    thumbnails, _ = fingerprints(images)
    near, far, _ = _candidates(find_keypoints(thumbnails))
    assert len(near) <= _MAX_CANDIDATES * len(images)
    assert (near < far).all()
    assert len(set(clusters_of(images).tolist())) == 1


@pytest.mark.parametrize(("turned", "found"), [((-5, 5), True), ((5, 20), True), ((5, 95), False)])
def test_votes_count_together_where_they_agree_on_the_angle(turned, found):
    frames = np.exp(1j * np.radians([0, 0, *turned]))
    votes = _Votes(np.array([2, 2]), frames)
    votes.add(np.array([1, 2, 1, 2, 3, 4, 5, 6], np.uint32))
    near, far, mirrored = (each.tolist() for each in votes.strongest())
    assert (near, far, mirrored) == (([0], [1], [False]) if found else ([], [], []))


def test_a_mirrored_image_gets_votes_in_both_directions():
    votes = _Votes(np.array([1, 1]), np.exp(1j * np.radians([40, 70])))
    votes.add(np.array([1, 2, 2, 1], np.uint32))  # as they are, then mirrored
    near, far, mirrored = (each.tolist() for each in votes.strongest())
    assert (near, far, mirrored) == ([0], [1], [True])


def test_copies_with_few_matches_are_found_by_their_pixels():
    scenes = [scene(seed, shapes=7) for seed in range(30)]
    copies = [EDITS["mirrored and cropped"](image, seed) for seed, image in enumerate(scenes)]
    assert find_keypoints(fingerprints(scenes)[0]).counts.mean() < 12
    clusters = clusters_of([*scenes, *copies])
    assert (clusters[:30] == clusters[30:]).mean() >= 0.9
    assert len(set(clusters[:30].tolist())) == 30


@pytest.mark.parametrize("count", [1, 2])
def test_blank_images_are_no_candidates(count):
    images = [Image.new("RGB", (40, 40), (90 * number, 0, 0)) for number in range(count)]
    assert len(set(clusters_of(images).tolist())) == count


# --- names


@pytest.mark.parametrize(
    ("names", "certain"),
    [
        (["a/x_jpg.rf.0a1b2c3d4e.jpg", "a/x_jpg.rf.99aabbccdd.jpg"], True),  # Roboflow
        (["train/a/x_jpg.rf.0a1b2c3d.jpg", "valid/a/x_jpg.rf.99aabb00.jpg"], True),
        (["bolt.png", "bolt_flip.png"], True),
        (["bolt_rot90.png", "bolt_flip.png"], True),
        (["bolt.png", "bolt_aug_3.png"], True),
        (["bolt.png", "bolt_hflip_rot-10.png"], True),
        (["bolt.jpg", "bolt (1).jpg"], False),
        (["bolt.jpg", "bolt - Copy.jpg"], False),
        (["bolt.jpg", "Copy of bolt.jpg"], False),
        (["bolt.jpg", "bolt copy 2.jpg"], False),
    ],
)
def test_names_of_copies(names, certain):
    (family,) = name_families([*names, "other.jpg", "b/nut.jpg"])
    assert sorted(family.members) == [0, 1]
    assert family.certain is certain


@pytest.mark.parametrize(
    "names",
    [
        ["a/x_jpg.rf.0a1b2c3d4e.jpg", "b/x_jpg.rf.99aabbccdd.jpg"],  # another class
        ["p (1).jpg", "p (2).jpg", "p (3).jpg"],  # numbered photos
        ["wheat_crop_001.jpg", "wheat_crop_002.jpg"],
        ["img_0001.jpg", "img_0002.jpg"],
        ["bolt.png", "bolt.jpg"],
        ["a/bolt.png", "b/bolt.png"],
    ],
)
def test_names_that_mean_something_else(names):
    assert name_families(names) == []


def test_numbers_are_read_in_order_and_by_folder():
    keys = ["v/f_10.png", "v/f_9.png", "w/f_1.png", "v/f_2_jpg.rf.aabbccdd.jpg", "v/other.png"]
    assert [(each.folder, each.name, each.members.tolist()) for each in numbered_names(keys)] == [
        ("v", "f_", [3, 1, 0]),
        ("w", "f_", [2]),
    ]


def film(seed: int, frames: int) -> list[Image.Image]:
    """Frames of a camera that moves slowly over a wide scene."""
    wide = scene(1000 + seed, (260, 120))
    return [wide.crop((6 * frame, 0, 6 * frame + 150, 120)) for frame in range(frames)]


def test_frames_of_videos_are_sequences_and_numbered_photos_are_not(scenes):
    films = [film(seed, 10) for seed in range(4)]
    keys = [f"calm/{name:05d}_{frame:05d}.png" for name in range(4) for frame in range(10)]
    rows = standardize(fingerprints([image for frames in films for image in frames])[0])
    found = find_sequences(keys, rows)
    assert found is not None
    assert [stretch.tolist() for stretch in found.stretches] == [
        list(range(start, start + 10)) for start in range(0, 40, 10)
    ]
    rows = standardize(fingerprints(scenes)[0])
    assert find_sequences([f"img_{number:04d}.jpg" for number in range(60)], rows) is None


def test_one_long_video_is_divided_into_stretches():
    wide = scene(7, (800, 120))
    frames = [wide.crop((4 * frame, 0, 4 * frame + 150, 120)) for frame in range(160)]
    rows = standardize(fingerprints(frames)[0])
    found = find_sequences([f"frame_{number}.png" for number in range(160)], rows)
    assert found is not None
    assert found.is_divided
    assert [len(stretch) for stretch in found.stretches] == [8] * 20


# --- groups of a folder


def groups_of(root: Path, **settings: object) -> tuple[list[str], Groups]:
    """The keys and the groups that a fit would find."""
    recipe = DataRecipe(**settings)  # type: ignore[arg-type]
    scanned = scan(with_groups(read_table(root), root, recipe.group), 96, "crop", recipe)
    return [sample.key for sample in scanned.table.samples], find_groups(scanned, recipe)


def write(root: Path, name: str, image: Image.Image) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(root / name, quality=90)


@pytest.fixture
def augmented(tmp_path) -> Path:
    """Random labels; each picture four times as an export tool augments before the split."""
    rng = random.Random(0)
    for number in range(24):
        image, label = scene(number), rng.choice(["sound", "worn"])
        for copy, name in enumerate((None, "mirrored", "turned by 10", "cropped")):
            pixels = EDITS[name](image, number) if name else image
            digest = f"{number * 7919 + copy * 104729:08x}"
            write(tmp_path / "data", f"{label}/part{number:03d}_jpg.rf.{digest}.jpg", pixels)
    return tmp_path / "data"


@pytest.mark.parametrize("renamed", [False, True])
def test_augmented_copies_stay_in_one_split_by_pixels_or_by_names(augmented, renamed):
    sources = {}
    for number, file in enumerate(sorted(augmented.rglob("*.jpg"))):
        name = f"{random.Random(number).getrandbits(64):x}.jpg" if renamed else file.name
        sources[file.rename(file.with_name(name)).name] = file.name.split("_")[0]
    keys, groups = groups_of(augmented)
    labels = [(key.split("/")[0],) for key in keys]
    splits = make_splits(labels, groups.names, 0.15, 0.15, 0)
    divided = count_divided(splits, [sources[key.split("/")[1]] for key in keys])
    assert divided <= (2 if renamed else 0)
    assert len(set(groups.names)) <= 24 + (6 if renamed else 0)
    assert groups.notes[0].id == "choice.near_copies"


def test_check_tells_of_copies_across_stated_splits(tmp_path):
    for number in range(16):
        image = scene(number)
        write(tmp_path / "data", f"train/{'ab'[number % 2]}/{number}.jpg", image)
        copy = EDITS["mirrored"](image, 0) if number < 3 else scene(number + 100)
        write(tmp_path / "data", f"test/{'ab'[number % 2]}/x{number}.jpg", copy)
    heavy = scene(50).rotate(47).crop((30, 20, 120, 100))
    write(tmp_path / "data", "train/a/y_jpg.rf.00aabbcc.jpg", scene(50))
    write(tmp_path / "data", "test/a/y_jpg.rf.11aabbcc.jpg", heavy)
    result = check(tmp_path / "data", out=tmp_path / "out", plan=False)
    found = {
        issue.kind.id: [(each.name, each.similar_to) for each in issue.locations]
        for issue in result.issues
        if issue.kind.area == "copies"
    }
    assert found["near_duplicate_across_splits"] == [
        (f"test/{place}.jpg", f"train/{place.replace('x', '')}.jpg")
        for place in ("a/x0", "a/x2", "b/x1")
    ]
    assert ("test/a/y_jpg.rf.11aabbcc.jpg", "train/a/y_jpg.rf.00aabbcc.jpg") in found[
        "named_copy_across_splits"
    ]


# --- stated groups


def write_patients(root: Path, header: str, patients: int = 15, images: int = 4) -> Path:
    rows = [f"path,label,{header}"]
    for number in range(patients * images):
        write(root, f"{number}.png", Image.new("RGB", (40, 40), (4 * number, 90, 30)))
        write(root, f"{number}.png", scene(number, (48, 40)))
        rows.append(f"{number}.png,{'ab'[number % 2]},P{number // images},s{number % 2}")
    (root / "table.csv").write_text("\n".join(rows), encoding="utf-8")
    return root / "table.csv"


@pytest.mark.parametrize(
    "column", ["patient", "patient_id", "PatientID", "Subject", "case", "slide"]
)
def test_a_column_of_patients_is_the_group(tmp_path, column):
    path = write_patients(tmp_path, f"{column},site")
    table = with_groups(read_table(path), path)
    assert len({sample.group for sample in table.samples}) == 15
    (note,) = table.notes
    assert f"the column {column.casefold()} is taken as the group, 15 in all" in str(note)
    assert "also found: site" in str(note)
    assert "data.group=none" in str(note)


def test_the_group_can_be_chosen_or_left_out(tmp_path):
    path = write_patients(tmp_path, "patient_id,site")
    table = read_table(path)
    assert {sample.group for sample in with_groups(table, path, "site").samples} == {"s0", "s1"}
    assert {sample.group for sample in with_groups(table, path, "none").samples} == {None}
    with pytest.raises(UsageError, match=r"no column is called 'ward'.*patient_id, site"):
        with_groups(table, path, "ward")


def test_a_doubtful_column_is_named_and_not_taken(tmp_path):
    path = write_patients(tmp_path, "batch,site")
    table = with_groups(read_table(path), path)
    assert not any(sample.group for sample in table.samples)
    (note,) = table.notes
    assert note.kind.severity == "warning"
    assert "the column site looks like a group but is not taken as one: it has only 2" in str(note)
    assert "--set data.group=site" in str(note)


def test_a_column_of_single_images_says_nothing(tmp_path):
    path = write_patients(tmp_path, "patient,batch", patients=20, images=1)
    assert with_groups(read_table(path), path).notes == ()


def test_a_stated_group_is_kept(tmp_path):
    path = write_patients(tmp_path, "group,patient_id")
    table = with_groups(read_table(path), path)
    assert {sample.group for sample in table.samples} == {f"P{number}" for number in range(15)}
    assert table.notes == ()


@pytest.mark.parametrize(
    ("column", "rank"),
    [("PatientID", 0), ("patient id", 0), ("lesion_id", 1), ("Study", 2), ("video_name", 3),
     ("site", 4), ("group", None), ("color", None), ("class_name", None), ("id", None)],
)  # fmt: skip
def test_names_of_columns(column, rank):
    assert group_rank(column) == rank


def test_ids_in_file_names_are_groups(tmp_path):
    for patient in range(8):
        for number in range(3):
            name = f"{'ab'[patient % 2]}/patient{patient:03d}_slice{number}.png"
            write(tmp_path, name, scene(patient * 3 + number, (48, 40)))
    table = with_groups(read_table(tmp_path), tmp_path)
    assert {sample.group for sample in table.samples} == {f"patient{n:03d}" for n in range(8)}
    assert "file names state a patient, such as patient000" in str(table.notes[-1])


def test_classes_that_look_like_ids_are_no_groups(tmp_path):
    for number in range(24):
        write(tmp_path, f"case{number % 6}/{number}.png", scene(number, (48, 40)))
    table = with_groups(read_table(tmp_path, "folder"), tmp_path)
    assert not any(sample.group for sample in table.samples)
    assert "each class has one value of its own" in str(table.notes[-1])


def test_equal_files_and_near_copies_join_stated_groups(tmp_path):
    path = write_patients(tmp_path, "patient_id,site")
    (tmp_path / "4.png").write_bytes((tmp_path / "0.png").read_bytes())  # P1 and P0
    big = scene(8)
    write(tmp_path, "8.png", big)  # P2
    write(tmp_path, "12.png", big.transpose(Image.Transpose.FLIP_LEFT_RIGHT))  # P3
    keys, groups = groups_of(path)
    by_key = dict(zip(keys, groups.names, strict=True))
    assert by_key["0.png"] == by_key["1.png"] == by_key["4.png"] == by_key["5.png"]
    assert by_key["8.png"] == by_key["12.png"] == by_key["13.png"] != by_key["0.png"]
    assert {note.id: note.values["count"] for note in groups.notes} == {
        "choice.equal_files": 1,
        "choice.near_copies": 1,
        "choice.joined_groups": 4,
    }
    _, off = groups_of(path, near_duplicates=1)
    assert [note.id for note in off.notes] == ["choice.equal_files", "choice.joined_groups"]


def test_a_fit_says_how_many_groups_a_stated_split_divides(tmp_path, caplog):
    path = write_patients(tmp_path / "data", "patient_id,site")
    lines = path.read_text(encoding="utf-8").splitlines()
    splits = ["split", *("test" if number % 4 == 3 else "train" for number in range(60))]
    rows = [f"{line},{split}" for line, split in zip(lines, splits, strict=True)]
    path.write_text("\n".join(rows), encoding="utf-8")
    caplog.set_level("INFO", "foveate")
    settings = {"backbone.name": "test_resnet", "backbone.weights": "none", "data.val": 0}
    foveate.fit(path, out=tmp_path / "run", size=32, device="cpu", settings=settings)
    assert "the column patient_id is taken as the group, 15 in all" in caplog.text
    assert "15 groups (near-copies, or images of one patient or video) are on both" in caplog.text
    result = check(path, out=tmp_path / "check", plan=False)
    divided = next(each for each in result.issues if each.kind.id == "divided_group")
    assert divided.occurrences == 15
