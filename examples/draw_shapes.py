"""Draws small images of circles, squares and triangles, with labels of the kind you name.

    python draw_shapes.py shapes --labels boxes

The tutorials use it, so that they need no download.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle")
COLORS = {"red": (200, 50, 40), "green": (40, 150, 60), "blue": (50, 80, 200)}


def draw(rng, size, count):
    """An image, its mask (0 is background) and a list of (shape, color, box) of `count` objects."""
    base = np.full((size, size, 3), rng.integers(120, 220, 3))
    noise = rng.normal(0, 12, (size, size, 3))
    image = Image.fromarray((base + noise).clip(0, 255).astype(np.uint8))
    mask = Image.new("L", (size, size), 0)
    pens, objects = (ImageDraw.Draw(image), ImageDraw.Draw(mask)), []
    for cell in rng.permutation(4)[:count]:  # one object in each quarter, so that none overlap
        side = int(rng.integers(size // 4, size // 2 - 4))
        slack = size // 2 - side
        x = int(cell % 2) * size // 2 + int(rng.integers(0, slack))
        y = int(cell // 2) * size // 2 + int(rng.integers(0, slack))
        shape, color = str(rng.choice(SHAPES)), str(rng.choice(list(COLORS)))
        box = (x, y, x + side, y + side)
        corners = [(x, y + side), (x + side, y + side), (x + side // 2, y)]
        for pen, fill in zip(pens, (COLORS[color], SHAPES.index(shape) + 1), strict=True):
            if shape == "circle":
                pen.ellipse(box, fill=fill)
            elif shape == "square":
                pen.rectangle(box, fill=fill)
            else:
                pen.polygon(corners, fill=fill)
        objects.append((shape, color, box))
    return image, mask, objects


def write(folder, labels, count, size, seed):
    rng = np.random.default_rng(seed)
    drawn = [draw(rng, size, 1 if labels == "classes" else 2) for _ in range(count)]
    images = folder if labels in ("classes", "none") else folder / "images"
    rows, boxes = [], []
    for number, (image, mask, objects) in enumerate(drawn):
        name = f"{number:03d}.png"
        path = images / objects[0][0] / name if labels == "classes" else images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        if labels == "masks":
            (folder / "masks").mkdir(exist_ok=True)
            mask.save(folder / "masks" / name)
        rows.append([f"images/{name}", " and ".join(f"a {c} {s}" for s, c, _ in objects)])
        boxes += [
            {
                "id": len(boxes) + index,
                "image_id": number,
                "category_id": SHAPES.index(shape),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
            }
            for index, (shape, _, (x0, y0, x1, y1)) in enumerate(objects)
        ]
    if labels == "captions":
        with (folder / "captions.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["path", "text"], *rows])
    if labels == "boxes":
        content = {
            "images": [
                {"id": n, "file_name": f"{n:03d}.png", "width": size, "height": size}
                for n in range(count)
            ],
            "categories": [{"id": n, "name": name} for n, name in enumerate(SHAPES)],
            "annotations": boxes,
        }
        (folder / "annotations.json").write_text(json.dumps(content))
    if labels == "masks":
        classes = ", ".join(("background", *SHAPES))
        card = f"path: .\nimages: images\nmasks: masks\nclasses: [{classes}]\n"
        (folder / "shapes.yaml").write_text(card)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    kinds = ("classes", "boxes", "masks", "captions", "none")
    parser.add_argument("--labels", choices=kinds, default="classes")
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--size", type=int, default=96, help="side of the images, px")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(**vars(arguments))
    print(f"{arguments.folder}: {arguments.count} images, labels: {arguments.labels}")
