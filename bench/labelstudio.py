"""Round trip through the real Label Studio: what Foveate writes is imported, exported, read back.

    python -m venv ls && ls/bin/pip install label-studio
    python bench/labelstudio.py --label-studio ls/bin/label-studio [--images 20] [--port 8089]

Starts Label Studio with a new database in a temporary folder; nothing but its own port is used. For
boxes, brush masks and choices, a data set is drawn and written as tasks with annotations and as
predictions. Both are imported into projects with our labeling configs, an image is fetched as local
file, and the exports JSON and JSON-MIN are read and compared. Prints a table.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveate.data.formats import FORMATS, read_table
from foveate.data.tools.labelstudio import CONFIG, labeling_config, local_file, to_results
from foveate.inference.writers import write_folder
from foveate.predictions import Boxes, ImageResult, Labels
from foveate.types import Sample, Table
from foveate.utils.rle import decode_rle, encode_rle

TOKEN = "0123456789abcdef0123456789abcdef01234567"
MODEL = "bench-full-1"
CLASSES = ("bolt", "nut", "ring")
SIZE = (120, 160)  # height, width
ARCHIVES = {"YOLO_WITH_IMAGES": 0.01, "COCO_WITH_IMAGES": 0.01, "VOC": 2.0}
"""Other exports, for boxes, and how far these may be off, px: VOC has whole numbers, from 1 on."""


# --- Label Studio


@dataclass
class Server:
    """A Label Studio that answers."""

    url: str

    def call(self, path: str, content: Any = None) -> Any:
        """Return the JSON that it answers; POST, if there is content."""
        return json.loads(self.fetch(path, content))

    def fetch(self, path: str, content: Any = None) -> bytes:
        """Return the bytes that it answers."""
        data = None if content is None else json.dumps(content).encode()
        return self.send(path, data, "application/json")

    def send(self, path: str, data: bytes | None, kind: str) -> bytes:
        """Return the bytes that it answers to data of a MIME type."""
        headers = {"Authorization": f"Token {TOKEN}", "Content-Type": kind}
        request = urllib.request.Request(self.url + path, data, headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=300) as answer:
            content_bytes: bytes = answer.read()
            return content_bytes


@contextmanager
def started(program: Path, root: Path, port: int) -> Iterator[Server]:
    """Start Label Studio with `root` as the root of local files, and stop it at the end."""
    data = root / "database"
    data.mkdir(parents=True)
    settings = {
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(root),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [program, "start", "--init", "--no-browser", "--port", port, "--data-dir", data]
    command += ["--username", "a@example.com", "--password", "secret123", "--user-token", TOKEN]
    with (root / "server.log").open("w") as log:
        process = subprocess.Popen(
            list(map(str, command)), env=environment | settings, stdout=log, stderr=log
        )
        try:
            server = Server(f"http://127.0.0.1:{port}")
            _wait_for(server, process)
            yield server
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(server: Server, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise SystemExit("Label Studio did not start; see server.log")
        try:
            server.call("/api/projects/")
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(1)
    raise SystemExit("Label Studio does not answer")


def create_project(server: Server, folder: Path, config: str, tasks: Any) -> int:
    """Create a project with the images of a folder as local storage; return its number."""
    project = server.call("/api/projects/", {"title": folder.name, "label_config": config})
    number: int = project["id"]
    storage = {"project": number, "path": str(folder / "images"), "use_blob_urls": True}
    server.call("/api/storages/localfiles", storage | {"title": "images"})
    server.call(f"/api/projects/{number}/import", tasks)
    return number


# --- drawn data


def draw(folder: Path, kind: str, count: int) -> Table:
    """Draw images with rectangles, and their boxes, masks or classes."""
    rng, samples = np.random.default_rng(0), []
    (folder / "images").mkdir(parents=True)
    for index in range(count):
        path = folder / "images" / f"photo {index:03d}.png"
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)
        objects = rng.integers(1, 4)
        starts = rng.uniform(0, 60, (objects, 2))
        xyxy = np.hstack([starts, starts + rng.uniform(5, 50, (objects, 2))]).astype(np.float32)
        names = tuple(rng.choice(CLASSES, objects).tolist())
        target: Boxes | Labels = Boxes(xyxy, names, crowd=np.zeros(objects, bool))
        if kind == "masks":
            masks = tuple(map(encode_rle, map(_disk, xyxy)))
            target = replace(target, masks=masks)
        elif kind == "choices":
            target = Labels(names[:1])
        samples.append(Sample(path, f"images/{path.name}", target))
    return Table(tuple(samples), CLASSES, "drawn", folder)


def _disk(box: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    (cx, cy), (rx, ry) = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    inside: np.ndarray = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1
    return inside


# --- the round trip


def write_tasks(table: Table, folder: Path) -> tuple[str, Any]:
    """Write a data set as `convert` does; classes as choices. Return labeling config and tasks."""
    folder.mkdir()
    if isinstance(table.samples[0].target, Boxes):
        FORMATS.get("labelstudio")().write(table, folder)
        tasks = json.loads((folder / "tasks.json").read_text())
        config = (folder / CONFIG).read_text()
    else:
        shutil.copytree(table.root / "images", folder / "images")
        config = labeling_config(CLASSES, Labels)
        tasks = [
            {
                "data": {"image": local_file(sample.key)},
                "annotations": [{"result": to_results(SIZE, sample.target)}],
            }
            for sample in table.samples
        ]
    for task in tasks:  # the document root is the folder above that of the data set
        task["data"]["image"] = task["data"]["image"].replace("?d=", f"?d={folder.name}/")
    return config, tasks


def write_predictions(table: Table, folder: Path) -> tuple[str, list[Any]]:
    """Write the targets as predictions, as `predict` does. Return labeling config and tasks."""
    results = []
    for sample in table.samples:
        target: Any = sample.target
        count = len(CLASSES) if isinstance(target, Labels) else len(target.names)
        scores = np.linspace(0.5, 0.9, count, dtype=np.float32)
        prediction = replace(target, scores=scores)
        results.append(ImageResult(str(sample.path), prediction, classes=CLASSES, model=MODEL))
    write_folder(results, "labelstudio", folder)
    return (folder / CONFIG).read_text(), json.loads((folder / "tasks.json").read_text())


def same(before: Table, after: Table, tolerance: float) -> int:
    """Return how many images have the same objects or classes."""
    # exports with images put a hash and two underscores before the names of local files
    found = {Path(each.key).name.rpartition("__")[2]: each.target for each in after.samples}
    count = 0
    for sample in before.samples:
        one, other = sample.target, found.get(Path(sample.key).name)
        if isinstance(one, Labels):
            count += isinstance(other, Labels) and one.names == other.names
        elif isinstance(one, Boxes) and isinstance(other, Boxes) and one.names == other.names:
            if one.masks:
                pairs = zip(one.masks, other.masks or (), strict=False)
                count += all((decode_rle(a) == decode_rle(b)).all() for a, b in pairs)
            else:
                count += bool(np.abs(one.xyxy - other.xyxy).max() <= tolerance)
    return count


def round_trip(server: Server, root: Path, kind: str, count: int) -> dict[str, Any]:
    """Import, export and read back data of a kind; return what was found."""
    table = draw(root / f"{kind}-drawn", kind, count)
    folder = root / kind
    config, tasks = write_tasks(table, folder)
    project = create_project(server, folder, config, tasks)
    image = server.fetch(tasks[0]["data"]["image"])
    row: dict[str, Any] = {"kind": kind, "images": count}
    row["image_served"] = image in {sample.file.read_bytes() for sample in table.samples}
    for export in ("JSON", "JSON_MIN"):
        content = server.fetch(f"/api/projects/{project}/export?exportType={export}")
        place = root / f"{kind}-{export}"
        shutil.copytree(folder / "images", place / "images")
        (place / "export.json").write_bytes(content)
        row[export] = same(table, read_table(place), 1e-3)
    for export, tolerance in ARCHIVES.items() if kind == "boxes" else ():
        content = server.fetch(f"/api/projects/{project}/export?exportType={export}")
        place = root / f"{kind}-{export}"
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(place)
        row[export] = same(table, read_table(place), tolerance)
    config, tasks = write_predictions(table, root / f"{kind}-predictions")
    project = create_project(server, table.root, config, tasks)
    export = f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true"
    exported = server.call(export)
    found = server.call(f"/api/predictions/?project={project}")
    row["tasks"] = len(exported)
    row["predictions"] = sum(
        each["model_version"] == MODEL and each["score"] is not None for each in found
    )
    return row


def upload(server: Server, root: Path, count: int) -> dict[str, Any]:
    """Upload images, annotate them through the API, and read the export beside the originals."""
    table = draw(root / "uploaded", "boxes", count)
    config = labeling_config(CLASSES, Boxes)
    project = server.call("/api/projects/", {"title": "uploaded", "label_config": config})["id"]
    for sample in table.samples:
        head = f'--x\r\nContent-Disposition: form-data; name="a"; filename="{sample.file.name}"\r\n'
        body = head.encode() + b"Content-Type: image/png\r\n\r\n" + sample.file.read_bytes()
        path, kind = f"/api/projects/{project}/import", "multipart/form-data; boundary=x"
        server.send(path, body + b"\r\n--x--\r\n", kind)
    tasks = server.call(f"/api/projects/{project}/tasks/?page_size={count}")
    for sample, task in zip(table.samples, sorted(tasks, key=lambda each: each["id"]), strict=True):
        result = {"result": to_results(SIZE, sample.target)}
        server.call(f"/api/tasks/{task['id']}/annotations/", result)
    content = server.fetch(f"/api/projects/{project}/export?exportType=JSON")
    (table.root / "export.json").write_bytes(content)
    stated = json.loads(content)[0]["data"]["image"]
    return {"kind": "uploaded", "stated": stated, "JSON": same(table, read_table(table.root), 1e-3)}


def main() -> None:
    """Run the round trips, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--label-studio", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--port", type=int, default=8089)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        with started(options.label_studio.resolve(), root, options.port) as server:
            version = server.call("/api/version")["release"]
            kinds = ("boxes", "masks", "choices")
            rows = [round_trip(server, root, kind, options.images) for kind in kinds]
            rows.append(upload(server, root, options.images))
    print(f"Label Studio {version}, {options.images} images each")
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
