"""Near-copies: how many are found, how many images are merged wrongly, and how long it takes.

    python bench/near_copies.py recall ../shared/data/clothing --images 500
    python bench/near_copies.py recall ../shared/data/brain_mri/Training
    python bench/near_copies.py merges ../shared/data/clothing --out merges
    python bench/near_copies.py time ../shared/data --images 1250 2500 5000 10000

`recall` edits every image in several ways, saves it as JPEG (quality 90), and counts the copies
that come into one cluster with their original, among all originals and all copies of that kind;
also for whole thumbnails alone. `merges` searches images as they are, and draws the pairs that it
merges, to be looked at. `time` measures the search alone, in processor seconds of one thread.

Prints the tables of docs/benchmarks/near-copies.md.
"""

from __future__ import annotations

import argparse
import io
import math
import random
import resource
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance
from threadpoolctl import threadpool_limits

from foveate.data.discovery import find_images
from foveate.data.duplicates import alike_pairs, gray_thumbnail, tint, unite
from foveate.data.grouping import near_copy_pairs
from foveate.evaluation.intervals import wilson
from foveate.images.codec import read_image
from foveate.recipe import DataRecipe

THRESHOLD = DataRecipe().near_duplicates
SIDES = {"fit": 224, "check": 64}  # short side that images are decoded at, px
TRANSPOSED = {
    "mirrored": Image.Transpose.FLIP_LEFT_RIGHT,
    "upside down": Image.Transpose.FLIP_TOP_BOTTOM,
    "turned by 90°": Image.Transpose.ROTATE_90,
    "turned by 180°": Image.Transpose.ROTATE_180,
}


def edit(image: Image.Image, rng: random.Random) -> dict[str, Image.Image]:
    """Return the edited versions of an image by name."""
    copies = {name: image.transpose(method) for name, method in TRANSPOSED.items()}
    sign = rng.choice([-1, 1])
    copies["turned by 5°, black corners"] = turn(image, 5 * sign)
    copies["turned by 10°, black corners"] = turn(image, 10 * sign)
    copies["turned by 10°, white corners"] = turn(image, 10 * sign, (255, 255, 255))
    copies["turned by 10°, corners cut off"] = turn_and_cut(image, 10 * sign)
    copies["cropped to 90 % of the sides"] = crop(image, 0.9, rng)
    copies["cropped to 80 % of the area"] = crop(image, math.sqrt(0.8), rng)
    copies["cropped to 80 % of the sides"] = crop(image, 0.8, rng)
    copies["mirrored, turned by 10°"] = turn(copies["mirrored"], 10 * sign)
    copies["mirrored, cropped to 80 %"] = crop(copies["mirrored"], 0.8, rng)
    copies["shifted by 10 %, black edge"] = shift(image, rng)
    copies["reduced to 80 %, black edge"] = reduce(image)
    copies["half the size, JPEG quality 30"] = recompress(image)
    copies["recolored"] = recolor(image, rng)
    copies["covered by a square of 35 %"] = cover(image, rng)
    return copies


def turn(image: Image.Image, angle: float, color: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    return image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=color)


def turn_and_cut(image: Image.Image, angle: float) -> Image.Image:
    width, height = image.size
    tilt = math.radians(abs(angle))
    share = 1 / (math.cos(tilt) + math.sin(tilt) * max(width / height, height / width))
    left, top = width * (1 - share) / 2, height * (1 - share) / 2
    return turn(image, angle).crop(
        (round(left), round(top), round(width - left), round(height - top))
    )


def crop(image: Image.Image, share: float, rng: random.Random) -> Image.Image:
    width, height = (int(side * share) for side in image.size)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def shift(image: Image.Image, rng: random.Random) -> Image.Image:
    canvas = Image.new("RGB", image.size)
    canvas.paste(image, tuple(int(0.1 * side) * rng.choice([-1, 1]) for side in image.size))
    return canvas


def reduce(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", image.size)
    small = image.resize(tuple(int(0.8 * side) for side in image.size), Image.Resampling.BICUBIC)
    canvas.paste(small, tuple((a - b) // 2 for a, b in zip(image.size, small.size, strict=True)))
    return canvas


def recompress(image: Image.Image) -> Image.Image:
    small = image.resize(tuple(max(8, side // 2) for side in image.size), Image.Resampling.BICUBIC)
    return Image.fromarray(saved(small, 30, None))


def recolor(image: Image.Image, rng: random.Random) -> Image.Image:
    image = ImageEnhance.Brightness(image).enhance(rng.choice([0.7, 1.3]))
    image = ImageEnhance.Contrast(image).enhance(rng.choice([0.7, 1.3]))
    hsv = np.array(image.convert("HSV"))
    hsv[..., 0] += np.uint8(rng.choice([12, 244]))  # of 256
    hsv[..., 1] = (hsv[..., 1] * 0.7).astype(np.uint8)
    return Image.fromarray(hsv, "HSV").convert("RGB")


def cover(image: Image.Image, rng: random.Random) -> Image.Image:
    image = image.copy()
    width, height = (int(0.35 * side) for side in image.size)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    image.paste((rng.randint(0, 255),) * 3, (left, top, left + width, top + height))
    return image


def saved(image: Image.Image, quality: int, short_side: int | None) -> np.ndarray:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return read_image(file.getvalue(), short_side)[0]


class Fingerprints:
    """Thumbnails and colors of images, collected one by one."""

    def __init__(self) -> None:
        self.thumbnails: list[np.ndarray] = []
        self.tints: list[np.ndarray] = []

    def add(self, pixels: np.ndarray) -> None:
        self.thumbnails.append(gray_thumbnail(pixels))
        self.tints.append(tint(pixels))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.stack(self.thumbnails), np.stack(self.tints)


def cluster(count: int, blocks: Iterable[np.ndarray]) -> np.ndarray:
    clusters = np.arange(count)
    for pairs in blocks:
        clusters = unite(clusters, pairs)
    return clusters


def measure_recall(files: list[Path], side: int, chosen: list[str]) -> None:
    originals, copies = Fingerprints(), dict[str, Fingerprints]()
    for number, file in enumerate(files):
        originals.add(read_image(file, side)[0])
        image = Image.fromarray(read_image(file)[0])
        for name, copy in edit(image, random.Random(number)).items():
            if chosen and not any(word in name for word in chosen):
                continue
            copies.setdefault(name, Fingerprints()).add(saved(copy, 90, side))
    first, count = originals.arrays(), len(files)
    print("| copies | found | share | 95 % interval | by whole thumbnails alone |")
    print("|---|---|---|---|---|")
    for name, edited in copies.items():
        thumbnails, tints = map(np.concatenate, zip(first, edited.arrays(), strict=True))
        found = []
        for blocks in (
            near_copy_pairs(thumbnails, tints, THRESHOLD),
            alike_pairs(thumbnails, THRESHOLD, tints),
        ):
            clusters = cluster(2 * count, blocks)
            found.append(int((clusters[:count] == clusters[count:]).sum()))
        low, high = wilson(found[0], count)
        print(
            f"| {name} | {found[0]} of {count} | {found[0] / count:.3f} | {low:.3f} to {high:.3f}"
            f" | {found[1] / count:.3f} |",
            flush=True,
        )


def list_merges(files: list[Path], side: int, out: Path) -> None:
    prints = Fingerprints()
    for file in files:
        prints.add(read_image(file, side)[0])
    thumbnails, tints = prints.arrays()
    for name, blocks in (
        ("whole thumbnails", alike_pairs(thumbnails, THRESHOLD, tints)),
        ("all", near_copy_pairs(thumbnails, tints, THRESHOLD)),
    ):
        pairs = np.unique(np.concatenate([np.empty((2, 0), int), *blocks], 1), axis=1)
        clusters = cluster(len(files), [pairs])
        merged = len(files) - len(set(clusters.tolist()))
        largest = np.bincount(clusters).max()
        print(
            f"{name}: {len(files)} images, {pairs.shape[1]} pairs, {merged} images merged with an "
            f"earlier one, largest cluster {largest}"
        )
    draw_pairs([(files[a], files[b]) for a, b in pairs.T.tolist()], out)


def draw_pairs(
    pairs: list[tuple[Path, Path]], out: Path, columns: int = 8, size: int = 100
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for page, start in enumerate(range(0, len(pairs), 6 * columns)):
        sheet = Image.new("RGB", (columns * (2 * size + 8), 6 * (size + 16)), "white")
        pen = ImageDraw.Draw(sheet)
        for number, pair in enumerate(pairs[start : start + 6 * columns]):
            x, y = number % columns * (2 * size + 8), number // columns * (size + 16)
            for place, file in enumerate(pair):
                image = Image.fromarray(read_image(file, size)[0]).resize((size, size))
                sheet.paste(image, (x + place * size, y))
            pen.text((x, y + size), " ".join(file.stem[-14:] for file in pair), fill="black")
        sheet.save(out / f"pairs-{page}.png")


def measure_time(files: list[Path], sizes: list[int]) -> None:
    prints = Fingerprints()
    for file in files:
        prints.add(read_image(file, SIDES["check"])[0])
    thumbnails, tints = prints.arrays()
    print("| images | processor, ms an image | of which whole thumbnails | peak memory, MB |")
    print("|---|---|---|---|")
    for size in sizes:
        seconds = []
        arrays = thumbnails[:size], tints[:size]
        for blocks in (
            near_copy_pairs(*arrays, THRESHOLD),
            alike_pairs(arrays[0], THRESHOLD, arrays[1]),
        ):
            start = time.process_time()
            cluster(size, blocks)
            seconds.append(1000 * (time.process_time() - start) / size)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {size:,} | {seconds[0]:.2f} | {seconds[1]:.2f} | {peak:,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["recall", "merges", "time"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[0], help="0 = all")
    parser.add_argument("--decoded", choices=SIDES, default="fit")
    parser.add_argument("--edits", nargs="+", default=[], help="words in names of edits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("merges"))
    options = parser.parse_args()
    files = sorted(find_images(options.folder))
    random.Random(options.seed).shuffle(files)
    files = files[: max(options.images)] if max(options.images) else files
    with threadpool_limits(1):
        if options.what == "recall":
            measure_recall(files, SIDES[options.decoded], options.edits)
        elif options.what == "merges":
            list_merges(files, SIDES[options.decoded], options.out)
        else:
            measure_time(files, options.images)


if __name__ == "__main__":
    main()
