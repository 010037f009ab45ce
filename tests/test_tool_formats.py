"""The files of annotation tools, written here as the tools themselves write them."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import foveate
from foveate.api.convert.comparison import compare_tables
from foveate.data.formats import FORMATS, Fit, read_table, sniff_formats
from foveate.data.issues import collecting
from foveate.data.tools.labelstudio import decode_brush, encode_brush
from foveate.errors import DataError, FoveateError
from foveate.inference.writers import write_folder
from foveate.predictions import Boxes, ImageResult, Labels, Regions
from foveate.types import Table
from foveate.utils.rle import decode_rle, encode_rle
from test_convert import assert_same_boxes, make_table, write_and_read

WIDTH, HEIGHT = 64, 48
SQUARE = [[10, 8], [30, 8], [30, 28], [10, 28]]  # 20 x 20 px
TOOLS = ("cvat", "labelme", "labelstudio", "supervisely", "via")


def write_image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
    return path


def png(mask: np.ndarray, **options) -> bytes:
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette([0, 0, 0, 255, 255, 255])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    return buffer.getvalue()


def notes_of(table: Table) -> str:
    return "\n".join(map(str, table.notes))


def boxes_of(table: Table, index: int = 0) -> list[tuple]:
    target = table.samples[index].target
    assert isinstance(target, Boxes)
    return [
        (name, *(round(x, 2) for x in corners))
        for name, corners in zip(target.names, target.xyxy.tolist(), strict=True)
    ]


def square_mask() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[8:28, 10:30] = True
    return mask


# --- LabelMe


def labelme_shape(label: str, kind: str = "polygon", points: object = SQUARE, **more) -> dict:
    shape = {"label": label, "points": points, "group_id": None, "description": ""}
    return {**shape, "shape_type": kind, "flags": {}, "mask": None, **more}


def labelme_file(image: Path, shapes: list[dict], **more) -> Path:
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image.name,
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **more,
    }
    return write_json(image.with_suffix(".json"), content)


def test_labelme_shapes(tmp_path):
    mask = labelme_shape("mask", "mask", [[10, 8], [29, 27]])
    mask["mask"] = base64.b64encode(png(np.ones((20, 20)))).decode()
    shapes = [
        labelme_shape("poly"),
        labelme_shape("disk", "circle", [[32, 24], [32, 14]]),
        labelme_shape("old", None),
        mask,
        labelme_shape("way", "line", [[1, 1], [9, 9]]),
        labelme_shape("eye", "point", [[5, 5]]),
        labelme_shape("thin", "polygon", [[1, 1], [9, 9]]),
        labelme_shape("__ignore__"),
    ]
    labelme_file(write_image(tmp_path / "a.png"), shapes)
    table = read_table(tmp_path)
    square = (10, 8, 30, 28)
    assert table.format == "labelme"
    assert boxes_of(table) == [
        ("poly", *square),
        ("disk", 22, 14, 42, 34),
        ("old", *square),
        ("mask", *square),
    ]
    target = table.samples[0].target
    assert (decode_rle(target.masks[3]) == square_mask()).all()
    assert abs(decode_rle(target.masks[1]).sum() - np.pi * 100) < 12
    notes = notes_of(table)
    for text in ("lines and the like), dropped: 2", "circles and ellipses", "fewer than three"):
        assert text in notes
    assert "labeled __ignore__" in notes


def test_labelme_groups_are_one_object_and_rectangles_have_two_or_four_corners(tmp_path):
    far = [[50, 30], [60, 30], [60, 40], [50, 40]]
    shapes = [
        labelme_shape("car", group_id=7),
        labelme_shape("car", points=far, group_id=7),
        labelme_shape("car", points=far, group_id=8),
        labelme_shape("box", "rectangle", [[30, 28], [10, 8]]),
    ]
    shapes[3]["points"] = [[30, 28], [10, 8]]  # drawn from the lower right
    labelme_file(write_image(tmp_path / "a.png"), shapes)
    table = read_table(tmp_path)
    assert boxes_of(table) == [
        ("car", 10, 8, 60, 40),
        ("car", 50, 30, 60, 40),
        ("box", 10, 8, 30, 28),
    ]
    assert decode_rle(table.samples[0].target.masks[0]).sum() == 500
    assert "joined to one object: 1" in notes_of(table)
    assert "their masks are the whole boxes: 1" in notes_of(table)


def test_labelme_mostly_rectangles_are_boxes_without_masks(tmp_path):
    corners = [[10, 8], [30, 28]]
    shapes = [labelme_shape("a", "rectangle", corners[:] + SQUARE[:0]) for _ in range(3)]
    for index, shape in enumerate(shapes):
        shape["points"] = [[10, 8], [30, 28 + index]]
    labelme_file(write_image(tmp_path / "a.png"), [*shapes, labelme_shape("a")])
    table = read_table(tmp_path)
    assert table.samples[0].target.masks is None
    assert "replaced by their bounding boxes: 1" in notes_of(table)
    with pytest.raises(DataError, match=r"not every object has an outline.*--format labelme"):
        read_table(tmp_path, accepted=(Regions,))


def test_labelme_in_a_folder_of_its_own_with_paths_of_windows(tmp_path):
    for name, split in (("a b.jpg", "train"), ("c.jpg", "valid")):
        write_image(tmp_path / split / "images" / name)
        path = f"..\\images\\{name}"
        file = labelme_file(tmp_path / split / "json" / name, [labelme_shape("x")], imagePath=path)
        assert file.parent.name == "json"
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nzebra\nx\n")
    table = read_table(tmp_path)
    assert [sample.key for sample in table.samples] == [
        "train/images/a b.jpg",
        "valid/images/c.jpg",
    ]
    assert [sample.split for sample in table.samples] == ["train", "val"]
    assert table.classes == ("zebra", "x")


def test_labelme_of_few_images_in_several_folders_is_asked_about(tmp_path):
    for number in range(8):
        write_image(tmp_path / "ab"[number % 2] / f"{number}.png", number)
    labelme_file(tmp_path / "a" / "0.png", [labelme_shape("x")])
    with pytest.raises(DataError, match="several ways") as caught:
        read_table(tmp_path)
    assert "only 1 of 8 images have an annotation" in caught.value.why
    table = read_table(tmp_path, "labelme")
    assert len(table.samples) == 1
    assert "without a .json file of LabelMe, skipped: 7" in notes_of(table)


def test_labelme_flags_are_tags(tmp_path):
    for number, name in enumerate(("good", "bad", "good")):
        flags = {"good": name == "good", "bad": name == "bad"}
        labelme_file(write_image(tmp_path / f"{number}.png", number), [], flags=flags)
    table = read_table(tmp_path)
    assert (table.format, table.classes, table.multilabel) == ("tags", ("bad", "good"), False)
    assert [sample.target.names for sample in table.samples] == [("good",), ("bad",), ("good",)]


def test_labelme_images_that_are_only_embedded_are_named(tmp_path):
    labelme_file(write_image(tmp_path / "a.png"), [labelme_shape("x")], imageData="aGVsbG8=")
    labelme_file(tmp_path / "gone.png", [labelme_shape("x")], imageData="aGVsbG8=")
    table = read_table(tmp_path)
    assert len(table.samples) == 1
    assert "exist only inside of the .json file: 1 ('gone.png')" in notes_of(table)
    assert "missing images, dropped with their boxes: 1" in notes_of(table)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"label": ""}, "the shape has no label"),
        ({"points": [["a", 1], [2, 3], [4, 5]]}, "not numbers"),
        ({"points": None}, "not numbers"),
        ({"shape_type": "mask", "points": [[0, 0], [3, 3]], "mask": "AAAA"}, "cannot be decoded"),
    ],
)
def test_labelme_faults_are_named_and_the_rest_is_read(tmp_path, shape, message):
    faulty = {**labelme_shape("x"), **shape}
    labelme_file(write_image(tmp_path / "a.png"), [faulty, labelme_shape("y")])
    with pytest.raises(DataError, match=f"(?s){message}.*a.json, shape 1"):
        read_table(tmp_path)
    with collecting() as log:
        assert [box[0] for box in boxes_of(read_table(tmp_path))] == ["y"]
    assert message in " ".join(map(str, log.issues()))


# --- VIA


def via_image(name: str, regions: object, **attributes) -> dict:
    return {"filename": name, "size": 1234, "regions": regions, "file_attributes": attributes}


def via_region(attributes: dict, **shape) -> dict:
    return {"shape_attributes": shape, "region_attributes": attributes}


RECT = {"name": "rect", "x": 10, "y": 8, "width": 20, "height": 20}
POLYGON = {"name": "polygon", "all_points_x": [10, 30, 30, 10], "all_points_y": [8, 8, 28, 28]}


def test_via_project(tmp_path):
    write_image(tmp_path / "images" / "a.png")
    write_image(tmp_path / "images" / "b.png", 1)
    regions = [
        via_region({"class": "bolt", "note": "old"}, **POLYGON),
        via_region({"class": "nut", "note": ""}, name="circle", cx=32, cy=24, r=10),
        via_region({"class": "nut"}, name="ellipse", cx=32, cy=24, rx=20, ry=5, theta=np.pi / 2),
        via_region({"class": "nut"}, name="point", cx=1, cy=1),
    ]
    images = {"a.png1234": via_image("a.png", regions), "b.png1234": via_image("b.png", [])}
    options = {"nut": "", "bolt": "", "ring": ""}
    attribute = {"type": "dropdown", "description": "", "options": options, "default_options": {}}
    project = {
        "_via_settings": {"ui": {}, "core": {}, "project": {"name": "p"}},
        "_via_img_metadata": images,
        "_via_attributes": {"region": {"class": attribute, "note": {"type": "text"}}, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(images),
    }
    write_json(tmp_path / "via_project_1Jan2024.json", project)
    write_json(tmp_path / "via_export_json.json", images)  # the same once more
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("via", ("nut", "bolt", "ring"))
    assert boxes_of(table) == [
        ("bolt", 10, 8, 30, 28),
        ("nut", 22, 14, 42, 34),
        ("nut", 27, 4, 37, 44),
    ]
    assert len(table.samples) == 2
    notes = notes_of(table)
    assert "attributes, which are not read: 1" in notes
    assert "circles and ellipses, replaced by polygons of 64 corners: 2" in notes


def test_via_of_the_first_version_in_split_folders_without_attributes(tmp_path):
    for folder in ("train", "val"):
        write_image(tmp_path / folder / "a.jpg")
        regions = {"0": via_region({}, **POLYGON), "1": via_region({}, **POLYGON)}
        regions["1"]["shape_attributes"] = {**POLYGON, "all_points_x": [40, 60, 60, 40]}
        entry = {"fileref": "", "base64_img_data": "", **via_image("a.jpg", regions)}
        write_json(tmp_path / folder / "via_region_data.json", {"a.jpg1234": entry})
    table = read_table(tmp_path)
    assert (table.classes, [sample.split for sample in table.samples]) == (
        ("object",),
        ["train", "val"],
    )
    assert "all of them are of one class, 'object'" in notes_of(table)
    assert read_table(tmp_path, accepted=(Regions,)).classes == ("background", "object")


def test_via_csv(tmp_path):
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "b.png", 1)
    header = "filename,file_size,file_attributes,region_count,region_id"
    header += ",region_shape_attributes,region_attributes\n"

    def cell(value: dict) -> str:
        return '"' + json.dumps(value, separators=(",", ":")).replace('"', '""') + '"'

    rows = f'a.png,99,"{{}}",1,0,{cell(RECT)},{cell({"Type": "bolt"})}\nb.png,9,"{{}}",0,0,"{{}}","{{}}"\n'
    (tmp_path / "via_export_csv.csv").write_text(header + rows)
    table = read_table(tmp_path)
    assert (table.format, boxes_of(table)) == ("via", [("bolt", 10, 8, 30, 28)])
    assert boxes_of(table, 1) == []


def test_via_that_does_not_say_what_the_class_is_names_the_attributes(tmp_path):
    write_image(tmp_path / "a.png")
    regions = [via_region({"color": "red", "shape": "hex"}, **RECT)]
    write_json(tmp_path / "v.json", {"a.png1": via_image("a.png", regions)})
    with pytest.raises(DataError, match=r"'color' with 'red'; 'shape' with 'hex'.*rename"):
        read_table(tmp_path)


def test_via_check_boxes_beside_a_class_are_attributes(tmp_path):
    write_image(tmp_path / "a.png")
    both = {"good": True, "frontal": True}
    regions = [
        via_region({"species": "fox", "quality": both}, **RECT),
        via_region({"species": "owl", "quality": {}}, **POLYGON),
        via_region({"species": "owl", "quality": {"good": False}}, **POLYGON),
    ]
    write_json(tmp_path / "v.json", {"a.png1": via_image("a.png", regions)})
    table = read_table(tmp_path)
    assert table.classes == ("fox", "owl")
    counts = {note.kind.id: note.occurrences for note in table.notes}
    assert counts["tool_attributes"] == 1
    assert "via_several_classes" not in counts


def test_via_check_boxes_as_classes_say_that_one_is_read(tmp_path):
    write_image(tmp_path / "a.png")
    regions = [
        via_region({"class": {"fox": True, "cub": True}}, **RECT),
        via_region({"class": {"owl": True, "cub": False}}, **POLYGON),
    ]
    write_json(tmp_path / "v.json", {"a.png1": via_image("a.png", regions)})
    table = read_table(tmp_path)
    assert table.classes == ("fox", "owl")
    (note,) = (note for note in table.notes if note.kind.id == "via_several_classes")
    assert (note.occurrences, note.locations[0].why) == (1, "fox, cub")
    regions[0]["region_attributes"] = {"class": {"fox": False}}
    write_json(tmp_path / "v.json", {"a.png1": via_image("a.png", regions)})
    with pytest.raises(DataError, match="a region has no class"):
        read_table(tmp_path)


def test_via_file_attributes_are_tags(tmp_path):
    images = {}
    for number, quality in enumerate(("good", "bad")):
        write_image(tmp_path / f"{number}.png", number)
        images[f"{number}.png1"] = via_image(f"{number}.png", [], quality=quality, caption="")
    write_json(tmp_path / "v.json", images)
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("tags", ("bad", "good"))


# --- CVAT

CVAT_META = """<meta><task><id>5</id><name>parts</name><size>2</size><mode>annotation</mode>
<labels>{}</labels><subset>Train</subset></task><dumped>2024-01-01 10:00:00+00:00</dumped></meta>"""


def cvat_labels(*names: str) -> str:
    return "".join(
        f"<label><name>{n}</name><color>#fff</color><type>any</type></label>" for n in names
    )


def write_cvat(path: Path, body: str, labels: str) -> Path:
    meta = CVAT_META.format(labels)
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{head}{meta}{body}</annotations>\n", encoding="utf-8")
    return path


def test_cvat_images(tmp_path):
    write_image(tmp_path / "images" / "Train" / "a.png")
    write_image(tmp_path / "images" / "Validation" / "b.png", 1)
    runs = [0, 20] * 19 + [0, 20]  # rows of 20 pixels each, one after the other
    shapes = f"""
    <box label="nut" source="manual" occluded="0" xtl="10.00" ytl="8.00" xbr="30.00" ybr="28.00" z_order="0"></box>
    <box label="nut" source="manual" occluded="0" xtl="10.00" ytl="18.00" xbr="30.00" ybr="22.00" rotation="90.00" z_order="0"></box>
    <polygon label="bolt" source="manual" occluded="0" points="10.00,8.00;30.00,8.00;30.00,28.00" z_order="0">
      <attribute name="worn">yes</attribute>
    </polygon>
    <ellipse label="bolt" source="manual" occluded="0" cx="32.00" cy="24.00" rx="10.00" ry="5.00" z_order="0"></ellipse>
    <mask label="ring" source="manual" occluded="0" rle="{", ".join(map(str, runs))}" left="10" top="8" width="20" height="20" z_order="0"></mask>
    <polyline label="nut" source="manual" occluded="0" points="1.00,1.00;9.00,9.00" z_order="0"></polyline>
    <skeleton label="nut" source="manual" z_order="0"><points label="1" source="manual" outside="0" occluded="0" points="1,1"></points></skeleton>
    <tag label="blurred" source="manual"></tag>"""
    body = f'<image id="0" name="a.png" subset="Train" task_id="5" width="64" height="48">{shapes}</image>'
    body += (
        '<image id="1" name="b.png" subset="Validation" task_id="6" width="64" height="48"></image>'
    )
    labels = cvat_labels("ring", "nut", "bolt", "unused")
    labels += "<label><name>blurred</name><type>tag</type></label>"
    write_cvat(tmp_path / "annotations.xml", body, labels)
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("cvat", ("ring", "nut", "bolt", "unused"))
    assert boxes_of(table) == [
        ("nut", 10, 8, 30, 28),
        ("nut", 18, 10, 22, 30),
        ("bolt", 10, 8, 30, 28),
        ("bolt", 22, 19, 42, 29),
        ("ring", 10, 8, 30, 28),
    ]
    assert (decode_rle(table.samples[0].target.masks[4]) == square_mask()).all()
    assert [sample.split for sample in table.samples] == ["train", "val"]
    assert boxes_of(table, 1) == []
    notes = notes_of(table)
    for text in (
        "rotated boxes, replaced by the upright boxes around them: 1",
        "lines and the like), dropped: 2",
        "attributes, which are not read: 1",
        "1 image has tags, which only --format tags reads",
        "their masks are the whole boxes: 2",
    ):
        assert text in notes
    tags = read_table(tmp_path, accepted=(Labels,))
    assert (tags.classes, len(tags.samples)) == (("blurred",), 1)
    assert "5 objects with boxes or outlines, which are not read" in notes_of(tags)


def test_cvat_mask_that_starts_with_a_set_pixel_and_one_that_does_not(tmp_path):
    write_image(tmp_path / "a.png")
    mask = '<mask label="{}" rle="{}" left="1" top="2" width="2" height="2" z_order="0"/>'
    body = mask.format("x", "1, 3") + mask.format("y", "0, 3, 1")
    write_cvat(
        tmp_path / "annotations.xml",
        f'<image id="0" name="a.png" width="64" height="48">{body}</image>',
        cvat_labels("x"),
    )
    masks = [
        decode_rle(mask)[2:4, 1:3].tolist() for mask in read_table(tmp_path).samples[0].target.masks
    ]
    assert masks == [[[False, True], [True, True]], [[True, True], [True, False]]]


def cvat_track(id: int, label: str, *boxes: tuple[int, int, int]) -> str:
    """A track; each box: frame, keyframe, outside."""
    text = "".join(
        f'<box frame="{frame}" keyframe="{key}" outside="{outside}" occluded="0" xtl="{10 + frame}.00"'
        f' ytl="8.00" xbr="{30 + frame}.00" ybr="28.00" z_order="0"></box>'
        for frame, key, outside in boxes
    )
    return f'<track id="{id}" label="{label}" source="manual">{text}</track>'


def test_cvat_tracks(tmp_path):
    for frame in range(5):
        write_image(tmp_path / "images" / f"frame_{frame:06d}.PNG", frame)
    tracks = cvat_track(0, "car", (0, 1, 0), (1, 0, 0), (2, 1, 1))
    tracks += cvat_track(1, "bus", (1, 1, 0), (2, 0, 0), (3, 0, 0))
    labels = cvat_labels("car", "bus")
    path = write_cvat(tmp_path / "annotations.xml", tracks, labels)
    text = path.read_text().replace("</task>", "<source>drive.mp4</source></task>")
    path.write_text(text)
    table = read_table(tmp_path)
    assert [[box[0] for box in boxes_of(table, frame)] for frame in range(5)] == [
        ["car"],
        ["car", "bus"],
        ["bus"],
        ["bus"],
        [],
    ]
    assert boxes_of(table, 1)[0] == ("car", 11, 8, 31, 28)
    assert {sample.group for sample in table.samples} == {"drive.mp4"}
    assert not any("skipped" in str(note) for note in table.notes)


def test_cvat_tracks_with_key_frames_alone_leave_out_what_is_not_stated(tmp_path):
    for frame in range(4):
        write_image(tmp_path / f"frame_{frame:06d}.jpg", frame)
    write_cvat(tmp_path / "x.xml", cvat_track(0, "car", (0, 1, 0), (3, 1, 0)), cvat_labels("car"))
    table = read_table(tmp_path)
    assert [sample.key for sample in table.samples] == ["frame_000000.jpg", "frame_000003.jpg"]
    assert "frames between two key frames of a track" in notes_of(table)


def test_cvat_tracks_without_frames_and_of_several_tasks_are_refused(tmp_path):
    track = cvat_track(0, "car", (0, 1, 0))
    write_cvat(tmp_path / "x.xml", track, cvat_labels("car"))
    with pytest.raises(DataError, match=r"frames of the tracks are not there.*CVAT for images"):
        read_table(tmp_path)
    two = track.replace("<track", '<track task_id="1"') + track.replace(
        "<track", '<track task_id="2"'
    )
    write_cvat(tmp_path / "x.xml", two, cvat_labels("car"))
    with pytest.raises(DataError, match=r"2 tasks.*export each task on its own"):
        read_table(tmp_path)


def test_frames_that_cvat_exports_as_images_are_one_group(tmp_path):
    body = ""
    for frame in range(2):
        write_image(tmp_path / "images" / f"frame_{frame:06d}.PNG", frame)
        box = '<box label="x" xtl="1" ytl="1" xbr="9" ybr="9"/>'
        body += f'<image id="{frame}" name="frame_{frame:06d}" width="64" height="48">{box}</image>'
    write_cvat(tmp_path / "annotations.xml", body, cvat_labels("x"))
    assert {sample.group for sample in read_table(tmp_path).samples} == {"parts"}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ('<box label="x" xtl="a" ytl="1" xbr="2" ybr="3"/>', "not numbers"),
        ('<box label="x" xtl="1" ytl="1" xbr="2"/>', "not numbers"),
        ('<polygon label="x" points="1,2;3"/>', "not numbers"),
        ('<box label="" xtl="1" ytl="1" xbr="2" ybr="3"/>', "no label"),
        (
            '<mask label="x" rle="1, 2" left="0" top="0" width="9" height="9"/>',
            "3 pixels, not 9 x 9",
        ),
        ('<mask label="x" rle="99999999999999" left="0" top="0" width="1" height="1"/>', "decoded"),
    ],
)
def test_cvat_faults_are_named_and_the_rest_is_read(tmp_path, shape, message):
    write_image(tmp_path / "a.png")
    good = '<box label="y" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    body = f'<image id="0" name="a.png" width="64" height="48">{shape}{good}</image>'
    write_cvat(tmp_path / "annotations.xml", body, cvat_labels("x", "y"))
    with pytest.raises(DataError, match=f"(?s){message}.*image 'a.png'|image 'a.png'.*{message}"):
        read_table(tmp_path)
    with collecting():
        assert [box[0] for box in boxes_of(read_table(tmp_path))] == ["y"]


# --- Label Studio


def ls_region(kind: str, label: str, value: dict, **more) -> dict:
    region = {
        "id": f"{kind}{label}{len(str(value))}",
        "type": kind,
        "value": {**value, kind: [label]},
        "origin": "manual",
        "to_name": "image",
        "from_name": "label",
        "image_rotation": 0,
        "original_width": WIDTH,
        "original_height": HEIGHT,
    }
    return {**region, **more}


def ls_annotation(results: list[dict], **more) -> dict:
    stated = {"id": 7, "completed_by": 1, "result": results, "was_cancelled": False}
    times = {"created_at": "2024-01-01T10:00:00Z", "updated_at": "2024-01-01T10:00:00Z"}
    return {**stated, "ground_truth": False, **times, "lead_time": 3.2, **more}


def ls_task(id: int, image: str, *annotations: dict) -> dict:
    return {
        "id": id,
        "annotations": list(annotations),
        "file_upload": "1a2b3c4d-a.png",
        "drafts": [],
        "predictions": [],
        "data": {"image": image},
        "meta": {},
        "project": 1,
    }


PERCENT = {
    "x": 1000 / WIDTH,
    "y": 800 / HEIGHT,
    "width": 2000 / WIDTH,
    "height": 2000 / HEIGHT,
    "rotation": 0,
}
LS_POINTS = [[x * 100 / WIDTH, y * 100 / HEIGHT] for x, y in SQUARE]


def test_labelstudio_shapes(tmp_path):
    write_image(tmp_path / "a.png")
    turned = {**PERCENT, "width": 1000 / WIDTH, "height": 1000 / HEIGHT, "rotation": 90}
    brush = {"format": "rle", "rle": encode_brush(square_mask())}
    oval = {"x": 50, "y": 50, "radiusX": 1000 / WIDTH, "radiusY": 500 / HEIGHT, "rotation": 0}
    results = [
        ls_region("rectanglelabels", "nut", PERCENT),
        ls_region("rectanglelabels", "nut", turned),
        ls_region("polygonlabels", "bolt", {"points": LS_POINTS, "closed": True}),
        ls_region("brushlabels", "ring", brush),
        ls_region("ellipselabels", "ring", oval),
        ls_region("keypointlabels", "eye", {"x": 1, "y": 1, "width": 0.5}),
        ls_region("rectanglelabels", "nut", PERCENT, image_rotation=90, id="turned"),
    ]
    write_json(
        tmp_path / "project-1.json",
        [ls_task(1, "/data/upload/1/1a2b3c4d-a.png", ls_annotation(results))],
    )
    table = read_table(tmp_path)
    square = (10, 8, 30, 28)
    assert table.format == "labelstudio"
    assert boxes_of(table) == [
        ("nut", *square),
        ("nut", 0, 8, 10, 18),  # about the upper left corner, clockwise
        ("bolt", *square),
        ("ring", *square),
        ("ring", 22, 19, 42, 29),
    ]
    assert (decode_rle(table.samples[0].target.masks[3]) == square_mask()).all()
    notes = notes_of(table)
    for text in ("lines and the like), dropped: 1", "image turned in Label Studio, dropped: 1"):
        assert text in notes


@pytest.mark.parametrize(
    ("stated", "stored"),
    [
        ("/data/upload/1/1a2b3c4d-my_photo.png", "my_photo.png"),
        ("/data/upload/1/1a2b3c4d-my_photo.png", "images/1a2b3c4d-my_photo.png"),
        ("/data/upload/1/1a2b3c4d-my_photo.png", "my photo.png"),
        ("/data/local-files/?d=photos/day%201/a.png", "photos/day 1/a.png"),
        ("/data/local-files/?d=elsewhere/a.png", "photos/a.png"),
        ("https://host/bucket/a%20b.png?X-Amz-Expires=1&X-Sign=ab", "a b.png"),
        ("s3://bucket/folder/a.png", "img/a.png"),
        ("C:\\fakepath\\a.png", "a.png"),
    ],
)
def test_labelstudio_images_are_found_by_path_or_name(tmp_path, stated, stored):
    write_image(tmp_path / stored)
    annotation = ls_annotation([ls_region("rectanglelabels", "nut", PERCENT)])
    write_json(tmp_path / "export.json", [ls_task(1, stated, annotation)])
    table = read_table(tmp_path)
    assert [sample.key for sample in table.samples] == [stored]


def test_labelstudio_several_annotators_and_skipped_tasks(tmp_path):
    def of(label: str, hour: int, **more) -> dict:
        time = f"2024-01-01T{hour:02d}:00:00Z"
        return ls_annotation(
            [ls_region("rectanglelabels", label, PERCENT)], updated_at=time, **more
        )

    tasks = [
        ls_task(1, "a.png", of("first", 9), of("last", 11), of("second", 10)),
        ls_task(2, "b.png", of("truth", 9, ground_truth=True), of("last", 11)),
        ls_task(3, "c.png", of("skipped", 9, was_cancelled=True)),
        ls_task(4, "d.png"),
        ls_task(5, "e.png", ls_annotation([])),
    ]
    tasks[3]["predictions"] = [{"result": [ls_region("rectanglelabels", "guess", PERCENT)]}]
    for name in "abcde":
        write_image(tmp_path / f"{name}.png", ord(name))
    table = read_table(write_json(tmp_path / "export.json", tasks))
    assert [(sample.key, sample.target.names) for sample in table.samples] == [
        ("a.png", ("last",)),
        ("b.png", ("truth",)),
        ("e.png", ()),
    ]
    assert "ground truth, or else the latest one, is read: 2" in notes_of(table)
    assert "skipped or not annotated, left out; predictions are no annotations: 2" in notes_of(
        table
    )


def test_labelstudio_shapes_and_labels_may_be_two_results(tmp_path):
    write_image(tmp_path / "a.png")
    shape = {"id": "x1", "type": "rectangle", "value": PERCENT, "image_rotation": 0}
    label = {"id": "x1", "type": "labels", "value": {**PERCENT, "labels": ["nut", "bolt"]}}
    answer = {"id": "x1", "type": "choices", "value": {**PERCENT, "choices": ["worn"]}}
    bare = {"id": "x2", "type": "rectangle", "value": {**PERCENT, "x": 1}}
    annotation = ls_annotation([shape, label, answer, bare])
    write_json(tmp_path / "export.json", [ls_task(1, "a.png", annotation)])
    table = read_table(tmp_path)
    assert boxes_of(table) == [("nut", 10, 8, 30, 28)]
    for text in (
        "regions with several labels",
        "attributes",
        "regions without a label, dropped: 1",
    ):
        assert text in notes_of(table)


def test_labelstudio_choices_are_tags(tmp_path):
    tasks = []
    for number, names in enumerate((["cat"], ["dog"], ["cat", "dog"])):
        write_image(tmp_path / f"{number}.png", number)
        choice = {"id": "c", "type": "choices", "from_name": "choice", "to_name": "image"}
        choice["value"] = {"choices": names}
        tasks.append(ls_task(number, f"{number}.png", ls_annotation([choice])))
    write_json(tmp_path / "two.json", tasks[:2])
    table = read_table(tmp_path)
    assert (table.format, table.classes, table.multilabel) == ("tags", ("cat", "dog"), False)
    write_json(tmp_path / "two.json", tasks)
    assert read_table(tmp_path).multilabel


def test_labelstudio_json_min(tmp_path):
    end = {"annotator": 1, "annotation_id": 7, "created_at": "", "updated_at": "", "lead_time": 1.5}
    value = {**PERCENT, "rectanglelabels": ["nut"], "original_width": 64, "original_height": 48}
    write_image(tmp_path / "boxes" / "a.png")
    record = {"image": "/data/upload/1/1a2b3c4d-a.png", "id": 1, "label": [value], **end}
    write_json(tmp_path / "boxes" / "min.json", [record])
    table = read_table(tmp_path / "boxes")
    assert (table.format, boxes_of(table)) == ("labelstudio", [("nut", 10, 8, 30, 28)])
    records = []
    for number, answer in enumerate(("cat", "dog", {"choices": ["cat", "dog"]})):
        write_image(tmp_path / "tags" / f"{number}.png", number)
        image = f"/data/upload/1/1a2b3c4d-{number}.png"
        records.append({"image": image, "text": "a photo", "id": number, "choice": answer, **end})
    write_json(tmp_path / "tags" / "min.json", records)
    table = read_table(tmp_path / "tags")
    assert [sample.target.names for sample in table.samples] == [("cat",), ("dog",), ("cat", "dog")]


def test_labelstudio_brush_of_another_size_and_damaged_ones_are_named(tmp_path):
    write_image(tmp_path / "a.png")
    rle = encode_brush(np.ones((4, 4), dtype=bool))
    for content, why in (
        (rle, "has 64 values"),
        (encode_brush(square_mask())[:9], "too early"),
        (["x"], ""),
    ):
        brush = {"format": "rle", "rle": content}
        task = ls_task(1, "a.png", ls_annotation([ls_region("brushlabels", "x", brush)]))
        write_json(tmp_path / "export.json", [task])
        with pytest.raises(DataError, match=f"does not fit its image.*{why}"):
            read_table(tmp_path)


def test_brush_masks_are_those_of_label_studio():
    mask = np.zeros((2, 4), dtype=bool)
    mask[0, 1:3] = True
    # what mask2rle of label_studio_sdk 2.1.3 gives for it
    assert encode_brush(mask) == [0, 0, 0, 32, 57, 27, 252, 96, 19, 255, 225, 48, 0]
    rng = np.random.default_rng(0)
    for size in ((1, 1), (3, 500), (HEIGHT, WIDTH)):
        for mask in (rng.random(size) < 0.5, np.zeros(size, bool), np.ones(size, bool)):
            assert (decode_brush(encode_brush(mask), size) == mask).all()


# --- Supervisely


def sly_object(title: str, kind: str, **geometry) -> dict:
    entry = {"classTitle": title, "description": "", "tags": [], "geometryType": kind}
    return {**entry, "shape": kind, "nnCreated": False, "nnUpdated": False, **geometry}


def sly_points(*exterior: tuple[int, int], interior: object = ()) -> dict:
    return {"points": {"exterior": list(map(list, exterior)), "interior": list(interior)}}


def sly_annotation(objects: list[dict], tags: list[dict] | None = None) -> dict:
    size = {"height": HEIGHT, "width": WIDTH}
    return {"description": "", "size": size, "tags": tags or [], "objects": objects}


def write_sly(root: Path, *titles: str) -> Path:
    classes = [{"title": t, "shape": "any", "color": "#FF0000", "hotkey": ""} for t in titles]
    write_json(root / "meta.json", {"classes": classes, "tags": [], "projectType": "images"})
    return root


def test_supervisely_project(tmp_path):
    root = write_sly(tmp_path / "1234_parts", "nut", "bolt", "ring")
    mask = np.ones((20, 20))
    packed = base64.b64encode(zlib.compress(png(mask, transparency=0))).decode()
    plain = base64.b64encode(png(mask)).decode()
    hole = [[15, 13], [25, 13], [25, 23], [15, 23]]
    objects = [
        sly_object("nut", "rectangle", **sly_points((30, 28), (10, 8))),
        sly_object("bolt", "polygon", **sly_points(*map(tuple, SQUARE), interior=[hole])),
        sly_object("ring", "bitmap", bitmap={"data": packed, "origin": [10, 8]}),
        sly_object("ring", "bitmap", bitmap={"data": plain, "origin": [50, 40]}),
        sly_object("nut", "oriented_bbox", points=[[10, 18], [30, 22]], angle=np.pi / 2),
        sly_object("nut", "point", **sly_points((1, 1))),
    ]
    write_image(root / "ds1" / "img" / "a.png")
    write_image(root / "ds1" / "img" / "b.png", 1)
    write_json(root / "ds1" / "ann" / "a.png.json", sly_annotation(objects, [{"name": "val"}]))
    write_image(root / "test" / "img" / "c.png", 2)
    write_json(root / "test" / "ann" / "c.png.json", sly_annotation([]))
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("supervisely", ("nut", "bolt", "ring"))
    assert boxes_of(table) == [
        ("nut", 10, 8, 30, 28),
        ("bolt", 10, 8, 30, 28),
        ("ring", 10, 8, 30, 28),
        ("ring", 50, 40, 64, 48),
        ("nut", 18, 10, 22, 30),
    ]
    masks = [decode_rle(mask) for mask in table.samples[0].target.masks]
    assert (masks[1].sum(), masks[2].sum(), masks[3].sum()) == (300, 400, 14 * 8)
    assert [(sample.key, sample.split) for sample in table.samples] == [
        ("ds1/img/a.png", "val"),
        ("test/img/c.png", "test"),
    ]
    assert "images without an annotation in ann, skipped: 1" in notes_of(table)


def test_supervisely_tags(tmp_path):
    write_sly(tmp_path)
    for number, name in enumerate(("cat", "dog")):
        write_image(tmp_path / "ds" / "img" / f"{number}.png", number)
        tags = [{"name": "train"}, {"name": name, "value": None, "labelerLogin": "me"}]
        write_json(tmp_path / "ds" / "ann" / f"{number}.png.json", sly_annotation([], tags))
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("tags", ("cat", "dog"))
    assert {sample.split for sample in table.samples} == {"train"}


def test_supervisely_bitmaps_that_cannot_be_decoded_are_named(tmp_path):
    write_sly(tmp_path, "x")
    write_image(tmp_path / "ds" / "img" / "a.png")
    for bitmap in ({"data": "!!", "origin": [0, 0]}, {"data": "AAAA", "origin": [0, 0]}, None):
        objects = [sly_object("x", "bitmap", bitmap=bitmap)]
        write_json(tmp_path / "ds" / "ann" / "a.png.json", sly_annotation(objects))
        with pytest.raises(DataError, match="cannot be decoded"):
            read_table(tmp_path)


# --- Roboflow's CSV


def test_roboflow_csv_in_split_folders(tmp_path):
    header = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    for number, folder in enumerate(("train", "valid", "test")):
        write_image(tmp_path / folder / f"{number}_jpg.rf.0a1b.jpg", number)
        row = f"{number}_jpg.rf.0a1b.jpg,64,48,bolt,10,8,30,28\n"
        (tmp_path / folder / "_annotations.csv").write_text(
            header + row + row.replace("bolt", "nut")
        )
    (tmp_path / "README.roboflow.txt").write_text("parts - v1\n")
    table = read_table(tmp_path)
    assert (table.format, table.classes) == ("boxes_table", ("bolt", "nut"))
    assert sorted(sample.split for sample in table.samples) == ["test", "train", "val"]
    assert boxes_of(table) == [("bolt", 10, 8, 30, 28), ("nut", 10, 8, 30, 28)]
    assert not notes_of(table)


def test_images_without_a_row_are_left_out_aloud(tmp_path):
    """Roboflow's CSV does not name images without objects."""
    header, row = "filename,class,xmin,ymin,xmax,ymax\n", "a.jpg,bolt,10,8,30,28\n"
    for number, name in enumerate("abc"):
        write_image(tmp_path / "train" / f"{name}.jpg", number)
    (tmp_path / "train" / "_annotations.csv").write_text(header + row)
    table = read_table(tmp_path)
    assert [sample.key for sample in table.samples] == ["train/a.jpg"]
    assert (
        "2 images beside those of the table without a row, left out: 'b.jpg', 'c.jpg'"
        in notes_of(table)
    )
    (tmp_path / "train" / "_annotations.csv").write_text(header + row + "b.jpg,,,,,\nc.jpg,,,,,\n")
    assert len(read_table(tmp_path).samples) == 3


# --- all tools


def test_a_polygon_of_every_tool_is_the_same_box_outline_and_mask(tmp_path):
    expected = square_mask()
    for tool in TOOLS:
        root = tmp_path / tool
        write_image(root / ("ds/img/a.png" if tool == "supervisely" else "a.png"))
        if tool == "labelme":
            labelme_file(root / "a.png", [labelme_shape("x")])
        elif tool == "via":
            region = via_region({"class": "x"}, **POLYGON)
            write_json(root / "via.json", {"a.png1": via_image("a.png", [region])})
        elif tool == "cvat":
            points = ";".join(f"{x},{y}" for x, y in SQUARE)
            polygon = f'<polygon label="x" points="{points}"/>'
            body = f'<image id="0" name="a.png" width="64" height="48">{polygon}</image>'
            write_cvat(root / "annotations.xml", body, cvat_labels("x"))
        elif tool == "labelstudio":
            region = ls_region("polygonlabels", "x", {"points": LS_POINTS})
            write_json(root / "p.json", [ls_task(1, "a.png", ls_annotation([region]))])
        else:
            objects = [sly_object("x", "polygon", **sly_points(*map(tuple, SQUARE)))]
            write_json(write_sly(root, "x") / "ds/ann/a.png.json", sly_annotation(objects))
        table, masks = read_table(root), read_table(root, accepted=(Regions,))
        assert (table.format, boxes_of(table)) == (tool, [("x", 10, 8, 30, 28)])
        assert (decode_rle(table.samples[0].target.masks[0]) == expected).all(), tool
        assert (masks.format, masks.classes) == ("outlines", ("background", "x"))
        assert ((masks.samples[0].target.mask == 1) == expected).all(), tool
        again = read_table(root, "outlines")  # as a run reads its data again
        assert again.classes == masks.classes


def test_files_of_two_tools_are_asked_about(tmp_path):
    write_image(tmp_path / "a.png")
    labelme_file(tmp_path / "a.png", [labelme_shape("x")])
    body = '<image id="0" name="a.png" width="64" height="48"><box label="x" xtl="1" ytl="1" xbr="9" ybr="9"/></image>'
    write_cvat(tmp_path / "annotations.xml", body, cvat_labels("x"))
    with pytest.raises(DataError, match=r"(?s)several ways.*--format cvat.*--format labelme"):
        read_table(tmp_path)
    with pytest.raises(DataError, match=r"exactly one format with outlines.*cvat, labelme"):
        read_table(tmp_path, "outlines")
    with pytest.raises(DataError, match=r"exactly one annotation tool.*cvat, labelme"):
        read_table(tmp_path, "tags")


@pytest.mark.parametrize("tool", TOOLS)
def test_other_data_are_refused_by_name(tmp_path, tool):
    write_image(tmp_path / "a.png")
    (tmp_path / "a.json").write_text("{]")
    (tmp_path / "a.xml").write_text("<annotation/>")
    assert FORMATS.get(tool)().sniff(tmp_path) is None
    with pytest.raises(DataError, match="there are no annotations of"):
        read_table(tmp_path, tool)


# --- writing


@pytest.mark.parametrize("tool", ["cvat", "labelme", "labelstudio", "via"])
def test_boxes_survive(tmp_path, tool):
    before = make_table(tmp_path / "made", splits=("train", "val", "test"))
    table, _ = write_and_read_tool(before, tool, tmp_path / "1")
    notes = compare_tables(before, table, tmp_path)
    assert ("groups_unsupported" in {note.kind.id for note in notes}) == (tool != "labelstudio")
    again, _ = write_and_read(table, "yolo", tmp_path / "2")
    assert_same_boxes(before, again, ("yolo",))
    by_content = {sample.file.read_bytes(): sample for sample in table.samples}
    for sample in before.samples:
        other = by_content[sample.file.read_bytes()]
        np.testing.assert_array_equal(other.target.xyxy, sample.target.xyxy)
        assert other.split == sample.split
        assert other.group == (sample.group if tool == "labelstudio" else None)


def write_and_read_tool(table: Table, tool: str, folder: Path) -> tuple[Table, str]:
    folder.mkdir()
    notes = FORMATS.get(tool)().write(table, folder)
    stated = [name for name, each in sniff_formats(folder).items() if each.fit == Fit.STATED]
    assert stated == [tool]
    return read_table(folder), "\n".join(map(str, notes))


@pytest.mark.parametrize("tool", ["cvat", "labelme", "labelstudio"])
def test_masks_survive_the_command(tmp_path, tool):
    mask = square_mask()
    mask[10:12, 12:40] = True
    write_image(tmp_path / "in" / "images" / "a.png")
    image = {"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}
    counts = np.diff(np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=0, append=0)))
    first = int(np.flatnonzero(mask.T.ravel())[0])
    rle = {"size": [HEIGHT, WIDTH], "counts": [first, *counts.tolist()]}
    rle["counts"].append(HEIGHT * WIDTH - sum(rle["counts"]))
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 8, 30, 20], "iscrowd": 0}
    content = {"images": [image], "annotations": [{**box, "segmentation": rle}]}
    write_json(tmp_path / "in" / "coco.json", {**content, "categories": [{"id": 1, "name": "x"}]})
    result = foveate.convert(tmp_path / "in", tool, tmp_path / "out")
    assert (result.counts, result.notes) == ({"x": 1}, ())
    target = read_table(tmp_path / "out").samples[0].target
    assert (decode_rle(target.masks[0]) == mask).all()


# --- predictions as pre-annotations


def results_of(folder: Path) -> dict[str, list[ImageResult]]:
    """Predictions of each kind for two images, in the order of their names."""
    paths = [str(write_image(folder / name, len(name))) for name in ("a 1.png", "sub/b.png")]
    xyxy = np.array([[10, 8, 30, 28], [1.5, 2, 9, 7]], np.float32)
    names, scores = ("bolt", "nut"), np.array([0.9, 0.4], np.float32)
    mask = np.zeros((HEIGHT, WIDTH), np.int64)
    mask[8:28, 10:30] = 2
    predictions: dict[str, list] = {
        "boxes": [Boxes(xyxy, names, scores), Boxes(xyxy[:0], (), scores[:0])],
        "masks": [
            Boxes(xyxy[:1], names[:1], scores[:1], masks=(encode_rle(square_mask()),)),
            Boxes(xyxy[:0], (), scores[:0]),
        ],
        "regions": [Regions(mask), Regions(mask * 0)],
        "labels": [Labels(("nut",), np.array([0.2, 0.8], np.float32)), Labels(("bolt",))],
    }
    classes = {"regions": ("background", "bolt", "nut")}
    return {
        kind: [
            ImageResult(path, each, None, classes.get(kind, names), False, "photos-full-1")
            for path, each in zip(paths, of_kind, strict=True)
        ]
        for kind, of_kind in predictions.items()
    }


def test_predictions_for_label_studio(tmp_path):
    results = results_of(tmp_path / "day 1")
    kinds = {
        "boxes": ("RectangleLabels", "rectanglelabels"),
        "masks": ("BrushLabels", "brushlabels"),
        "regions": ("BrushLabels", "brushlabels"),
        "labels": ("Choices", "choices"),
    }
    for kind, (tag, type_) in kinds.items():
        write_folder(results[kind], "labelstudio", tmp_path / kind, [tmp_path / "day 1"])
        first, second = json.loads((tmp_path / kind / "tasks.json").read_text())
        assert first["data"] == {"image": "/data/local-files/?d=day%201/a%201.png"}
        assert second["data"] == {"image": "/data/local-files/?d=day%201/sub/b.png"}
        (prediction,) = first["predictions"]
        assert prediction["model_version"] == "photos-full-1"
        region = prediction["result"][0]
        assert (region["type"], region["from_name"], region["to_name"]) == (type_, "label", "image")
        config = (tmp_path / kind / "label_config.xml").read_text()
        assert f'<{tag} name="label" toName="image"' in config
        assert ("background" in config, 'value="nut"' in config) == (False, True)
        if kind == "boxes":
            assert prediction["score"] == pytest.approx(0.65)
            assert region["score"] == pytest.approx(0.9)
            assert region["value"].pop("rectanglelabels") == ["bolt"]
            assert region["value"] == pytest.approx(PERCENT)
            assert (region["original_width"], region["original_height"]) == (WIDTH, HEIGHT)
        elif kind == "labels":
            assert (region["value"], prediction["score"]) == ({"choices": ["nut"]}, 0.8)
        else:
            mask = decode_brush(region["value"]["rle"], (HEIGHT, WIDTH))
            assert (mask == square_mask()).all()
            assert second["predictions"][0]["result"] == []


def test_predictions_for_cvat_and_labelme_are_read_as_annotations(tmp_path):
    images = tmp_path / "in"
    for kind, of_kind in results_of(images).items():
        for tool in ("cvat", "labelme"):
            out = tmp_path / tool / kind
            write_folder(of_kind, tool, out, [images])
            if tool == "cvat":  # beside the images, where CVAT exports them
                (images / "annotations.xml").write_bytes((out / "annotations.xml").read_bytes())
                out = images
            format = "tags" if kind == "labels" else tool
            table = read_table(out, format, allow_outside=tool == "labelme")
            assert [Path(sample.key).name for sample in table.samples] == ["a 1.png", "b.png"]
            if kind == "labels":
                assert [sample.target.names for sample in table.samples] == [("nut",), ("bolt",)]
            else:
                target = table.samples[0].target
                assert target.xyxy[0].tolist() == [10, 8, 30, 28]
                assert table.classes == ("bolt", "nut")
                assert (target.masks is None) == (kind == "boxes")
        (images / "annotations.xml").unlink()
    shapes = json.loads((tmp_path / "labelme/boxes/a 1.json").read_text())
    assert shapes["imagePath"] == "../../in/a 1.png"
    assert shapes["model_version"] == "photos-full-1"
    assert [shape["score"] for shape in shapes["shapes"]] == [0.9, 0.4]
    xml = (tmp_path / "cvat/boxes/annotations.xml").read_text()
    assert '<attribute name="score">0.9000</attribute>' in xml
    assert 'name="sub/b.png" width="64" height="48"' in xml
    labels = json.loads((tmp_path / "cvat/regions/labels.json").read_text())
    assert [label["name"] for label in labels] == ["bolt", "nut"]


# --- damaged files

ODD = (None, [], {}, "", "x", -1, 1e300, float("nan"), True, [[]], [None], {"a": None}, "\0", "/")
ODD_TEXTS = ("", "x", "-1", "1e999", "nan", ";", ",", "1,2;", "99999999999999999999", "/", "..")


def replace_somewhere(content: object, rng: np.random.Generator) -> object:
    """Return JSON in which one value, at any depth, is another."""
    if isinstance(content, dict | list) and content and rng.random() < 0.85:
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        key = keys[rng.integers(len(keys))]
        changed = content.copy()
        changed[key] = replace_somewhere(changed[key], rng)
        return changed
    return ODD[rng.integers(len(ODD))]


def damaged_files(root: Path, tool: str) -> tuple[Path, object]:
    """Write a small data set of a tool; return the file to damage and its content."""
    write_image(root / ("ds/img/a.png" if tool == "supervisely" else "a.png"))
    mask = png(np.ones((20, 20)))
    if tool == "labelme":
        shapes = [labelme_shape("x", group_id=1), labelme_shape("y", "circle", SQUARE[:2])]
        shapes.append(labelme_shape("z", "mask", [[1, 1], [20, 20]]))
        shapes[2]["mask"] = base64.b64encode(mask).decode()
        file = labelme_file(root / "a.png", shapes, flags={"good": True})
    elif tool == "via":
        regions = [via_region({"class": "x"}, **POLYGON), via_region({"class": "y"}, **RECT)]
        file = write_json(root / "v.json", {"a.png1": via_image("a.png", regions, quality="good")})
    elif tool == "labelstudio":
        brush = {"format": "rle", "rle": encode_brush(square_mask())}
        results = [ls_region("rectanglelabels", "x", PERCENT), ls_region("brushlabels", "y", brush)]
        results.append(ls_region("polygonlabels", "z", {"points": LS_POINTS}))
        file = write_json(root / "p.json", [ls_task(1, "a.png", ls_annotation(results))])
    else:
        bitmap = {"data": base64.b64encode(zlib.compress(mask)).decode(), "origin": [1, 1]}
        objects = [
            sly_object("x", "polygon", **sly_points(*map(tuple, SQUARE), interior=[SQUARE])),
            sly_object("x", "bitmap", bitmap=bitmap),
            sly_object("x", "oriented_bbox", points=[[10, 18], [30, 22]], angle=0.5),
        ]
        annotation = sly_annotation(objects, [{"name": "good"}])
        file = write_json(write_sly(root, "x") / "ds/ann/a.png.json", annotation)
    return file, json.loads(file.read_text())


def read_or_refuse(root: Path, tool: str) -> None:
    """Anything but an error of Foveate fails the test, also where problems are collected."""
    for format in (tool, "tags", "outlines", "auto"):
        with contextlib.suppress(FoveateError):
            read_table(root, format)
    with collecting(), contextlib.suppress(FoveateError):
        read_table(root, tool)


@pytest.mark.parametrize("tool", ["labelme", "via", "labelstudio", "supervisely"])
def test_damaged_json_is_refused_or_read(tmp_path, tool):
    file, content = damaged_files(tmp_path, tool)
    rng = np.random.default_rng(0)
    for _ in range(25):
        file.write_text(json.dumps(replace_somewhere(content, rng)))
        read_or_refuse(tmp_path, tool)


def test_damaged_xml_of_cvat_is_refused_or_read(tmp_path):
    for name in ("a.png", "frame_000000.png"):
        write_image(tmp_path / name)
    shapes = '<box label="x" xtl="1" ytl="1" xbr="9" ybr="9" rotation="5"/>'
    shapes += (
        '<ellipse label="x" cx="9" cy="9" rx="4" ry="4"/><polygon label="x" points="1,1;9,1;9,9"/>'
    )
    shapes += '<mask label="x" rle="1, 3" left="1" top="2" width="2" height="2"/><tag label="y"/>'
    body = f'<image id="0" name="a.png" subset="Train" width="64" height="48">{shapes}</image>'
    path = write_cvat(tmp_path / "x.xml", body + cvat_track(0, "x", (0, 1, 0)), cvat_labels("x"))
    text, rng = path.read_text(), np.random.default_rng(0)
    values = list(re.finditer(r'"([^"]*)"', text))[2:]
    for _ in range(25):
        value = values[rng.integers(len(values))]
        odd = ODD_TEXTS[rng.integers(len(ODD_TEXTS))]
        path.write_text(f"{text[: value.start(1)]}{odd}{text[value.end(1) :]}")
        read_or_refuse(tmp_path, "cvat")
