"""Exports of annotation platforms, and the files of clouds and public data sets, read as they are.

Labelbox, V7 Darwin, SuperAnnotate, Scale, Encord, Dataloop, Hasty; Vertex AI and AutoML, SageMaker
Ground Truth and Rekognition; Create ML, VoTT, Edge Impulse, Datumaro, Scalabel (BDD100K) and Open
Images; and text files of public data sets (`_exports_texts`). Boxes and polygons are read, and
classes of whole images as tags; masks that only the server of the tool has are not. Images are
found by the last part of their path or URL. DATA is the file, or the folder with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from foveate.data.formats._exports import Export, ExportedImage
from foveate.data.formats._exports_clouds import CLOUDS
from foveate.data.formats._exports_platforms import PLATFORMS
from foveate.data.formats._exports_programs import PROGRAMS
from foveate.data.formats._exports_texts import NUMBER_LISTS, TEXTS
from foveate.data.formats._label_names import name_numbers, renamed
from foveate.data.formats._tool_files import (
    ImageLocator,
    files_by_extension,
    not_of_tool,
    read_head,
    root_of_file,
)
from foveate.data.formats._tool_tables import (
    ATTRIBUTES,
    ROTATED,
    AnnotatedImage,
    Found,
    ToolFormat,
    ToolTable,
    cut_out,
)
from foveate.data.issues import skip_and_record
from foveate.data.split_names import split_in_folders, split_in_name
from foveate.types import IssueKind, remark

_EXPORTS = (*CLOUDS, *PLATFORMS, *PROGRAMS, *TEXTS)
_MAX_IN_FOLDER = 20  # files of one kind that a folder has; more belong to an image each
_MAX_FILES = 60  # that are opened to recognize an export
_SAMPLE = 5  # files of a folder with many that are opened

_NOT_ANNOTATED = IssueKind(
    "export_not_annotated", "images that nobody has labeled in the export, left out", "warning"
)
_SEVERAL = IssueKind(
    "export_several", "images that several people labeled; the last label is read", "warning"
)
_LOST = IssueKind(
    "export_lost", "objects of a kind that is not read from an export, dropped", "warning"
)
_NO_IMAGE = IssueKind("export_no_image", "entries of an export without an image, left out", "error")


class Exports(ToolFormat):
    """An export of an annotation platform, a cloud or a program."""

    format: ClassVar[str] = "exports"
    summary: ClassVar[str] = "an export of an annotation platform, or a public data set"

    def find(self, path: Path) -> Found | None:
        """Files with the words of one of the tools."""
        found = list(_find(path))
        if not found:
            return None
        objects = any(export.objects.search(head) for _, export, head in found)
        tags = any(export.tags and export.tags.search(head) for _, export, head in found)
        tools = dict.fromkeys(export.tool for _, export, _ in found)
        doubts = [f"it has data of {' and of '.join(tools)}"] if len(tools) > 1 else []
        if any(_are_in_folders(head) for _, export, head in found if export is NUMBER_LISTS):
            doubts.append("its classes are numbers, and the folders of the images may name them")
        files = tuple(file for file, _, _ in found)
        return Found(files, bool(objects) or not tags, bool(tags), tuple(doubts))

    def collect(self, path: Path) -> ToolTable:
        """Read all files; of the images only headers.

        Raises:
            DataError: There are none, or one of them cannot be used.
        """
        found = list(_find(path))
        if not found:
            raise not_of_tool(path, "a known platform", "is such an export")
        table = ToolTable(root_of_file(path))
        locator, tools = ImageLocator(table.root), Counter[str]()
        for file, export, _ in found:
            tools[export.tool] += 1
            with skip_and_record():
                for image in export.read(file):
                    _add_image(image, file, table, locator)
        _name_tags(table, [file.parent for file, _, _ in found])
        text = "read as data of {tools}"
        table.notes.append(remark("export_tool", text, tools=", ".join(tools)))
        table.notes += locator.notes()
        return table


def _find(path: Path) -> Iterator[tuple[Path, Export, bytes]]:
    """Yield the files of exports with their heads; where there are many, by a sample of them."""
    opened = 0
    for folder, names in _candidates(path):
        many = len(names) > _MAX_IN_FOLDER
        chosen = names[:: max(1, len(names) // _SAMPLE)][:_SAMPLE] if many else names
        sample = [folder / name for name in chosen]
        if opened + len(sample) > _MAX_FILES:
            return
        opened += len(sample)
        heads = {file: read_head(file) for file in sample}
        matching = {file: export for file, head in heads.items() if (export := _match(file, head))}
        if not many:
            yield from ((file, export, heads[file]) for file, export in matching.items())
        elif len(matching) == len(sample) and len(set(map(id, matching.values()))) == 1:
            export = matching[sample[0]]
            if export.one_each:
                files = (folder / name for name in names)
                yield from ((file, export, heads.get(file, b"")) for file in files)


def _candidates(path: Path) -> Iterator[tuple[Path, list[str]]]:
    if path.is_file():
        yield path.parent, [path.name]
        return
    by_extension = files_by_extension(path)
    for extension in dict.fromkeys(each for export in _EXPORTS for each in export.extensions):
        yield from by_extension.get(extension, ())


def _match(file: Path, head: bytes) -> Export | None:
    extension = file.suffix.lower()
    fitting = (
        each
        for each in _EXPORTS
        if extension in each.extensions
        and (each.names is None or each.names.fullmatch(file.name))
        and each.matches(head)
    )
    return next(fitting, None)


def _are_in_folders(head: bytes) -> bool:
    """Whether the images of a list lie in several folders that have no names of splits."""
    folders = {line.rpartition(b"/")[0].rpartition(b"/")[2] for line in head.splitlines()}
    names = {folder.decode("utf-8", "replace") for folder in folders if folder}
    return sum(split_in_name(name) is None for name in names) > 1


# --- images


def _name_tags(table: ToolTable, folders: list[Path]) -> None:
    """Name tags that are numbers by a file beside the export, where there is one."""
    tags = {tag for image in table.images for tag in image.tags}
    names = name_numbers(tags, [table.root, *dict.fromkeys(folders)], table.notes)
    for image in table.images:
        image.tags[:] = [renamed(tag, names) for tag in image.tags]


def _add_image(
    exported: ExportedImage, file: Path, table: ToolTable, locator: ImageLocator
) -> None:
    if not exported.names:
        table.log.add(_NO_IMAGE, exported.where)
        return
    if not exported.is_annotated:
        table.log.add(_NOT_ANNOTATED, exported.where)
        return
    path = locator.find(exported.names, [file.parent, file.parent / "images"])
    inside = path.relative_to(table.root).parts[:-1] if path.is_relative_to(table.root) else ()
    split, size = exported.split or split_in_folders(inside), table.size_of(path, exported.size)
    image, key = AnnotatedImage(path, split, exported.group, size), table.key(path)
    image.tags += exported.tags
    _add_objects(exported, image, table)
    for kind, count in Counter(exported.lost).items():
        table.log.add(_LOST, key, count, why=kind)
    for issue, count in (
        (ROTATED, exported.rotated),
        (ATTRIBUTES, exported.attributes),
        (_SEVERAL, int(exported.is_one_of_several)),
    ):
        if count:
            table.log.add(issue, key, count)
    table.images.append(image)


def _add_objects(exported: ExportedImage, image: AnnotatedImage, table: ToolTable) -> None:
    if image.size is None:  # the image is missing, which is said once it is built
        return
    height, width = image.size
    scale = (width, height) if exported.in_fractions else (1, 1)

    def scaled(points: list[float]) -> list[float]:
        return [value * scale[index % 2] for index, value in enumerate(points)]

    for corners, name in exported.boxes:
        x0, y0, x1, y1 = scaled(list(corners))
        image.add_box((x0, y0, x1, y1), name)
    for number, (parts, holes, name) in enumerate(exported.polygons):
        group = number if len(parts) > 1 and not holes else None
        for part in parts:
            count = len(image.outlined)
            table.add_polygon(image, scaled(part), name, group)
            if holes and len(image.outlined) > count:
                interiors = [scaled(hole) for hole in holes]
                mask = cut_out(scaled(part), interiors, image.size)
                image.raw.masks[-1] = mask or image.raw.masks[-1]
