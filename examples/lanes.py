"""Lane lines: segmentation, then a curve through the pixels of each line.

    python examples/lanes.py OUT [--count 160] [--epochs 12]

Draws roads of its own (no public lane set lies beside this project): two or three lines that bend towards a vanishing point, some
dashed, in noise, shade and glare, with things that look like lines and are none. Trains `foveate fit` on masks with a class for the
lines, turns every answer into curves x = a y^2 + b y + c, and prints how far they lie from the true ones, in pixels across, for
roads that no training saw, with the share of lines that were found.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import label

import foveate

HEIGHT, WIDTH, HORIZON = 192, 256, 60
NEAR = 8.0  # px across: a curve closer than this on average has found the line
FAR = 20  # px below the horizon: what lies nearer to it is not read
SMALLEST = 40  # pixels of a line, before a curve is laid through them


def road(rng: np.random.Generator) -> tuple[Image.Image, Image.Image, list[np.ndarray]]:
    """A picture, its mask (255 on lines), and the true (a, b, c) of each line."""
    picture = Image.new(
        "RGB", (WIDTH, HEIGHT), tuple(int(value) for value in rng.integers(120, 220, 3))
    )
    mask = Image.new("L", (WIDTH, HEIGHT), 0)
    paint, mark = ImageDraw.Draw(picture), ImageDraw.Draw(mask)
    grey = int(rng.integers(50, 110))
    paint.rectangle([0, HORIZON, WIDTH, HEIGHT], fill=(grey, grey, grey + int(rng.integers(-8, 8))))
    for _ in range(3):  # kerbs and shadows: straight and level, no lane lines
        y = int(rng.integers(HORIZON, HEIGHT))
        shade = int(rng.integers(20, 200))
        paint.line(
            [0, y, WIDTH, y + int(rng.integers(-12, 12))],
            fill=(shade, shade, shade),
            width=int(rng.integers(1, 4)),
        )
    vanishing, bend = rng.uniform(90, 166), rng.uniform(-0.0035, 0.0035)
    curves = []
    for foot in np.linspace(20, 236, int(rng.integers(2, 4))) + rng.uniform(-15, 15):
        slope = (foot - vanishing - bend * (HEIGHT - HORIZON) ** 2) / (HEIGHT - HORIZON)
        curve = np.array(
            [bend, slope - 2 * bend * HORIZON, vanishing - slope * HORIZON + bend * HORIZON**2]
        )
        _draw(paint, mark, curve, rng)
        curves.append(curve)
    pixels = np.asarray(picture, np.float32) * rng.uniform(0.6, 1.1)
    pixels += (
        rng.normal(0, 10, pixels.shape) + np.linspace(0, rng.uniform(-40, 40), WIDTH)[None, :, None]
    )
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), mask, curves


def _draw(
    paint: ImageDraw.ImageDraw,
    mark: ImageDraw.ImageDraw,
    curve: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """The paint may be dashed; the mask is the whole line, because that is what a driver needs."""
    dash, phase, colour = rng.uniform(0, 1) < 0.5, rng.uniform(0, 20), int(rng.integers(170, 255))
    for y in range(HORIZON + 6, HEIGHT):
        x, half = float(np.polyval(curve, y)), 0.6 + 2.6 * (y - HORIZON) / (HEIGHT - HORIZON)
        if not dash or (y + phase) % 24 < 15:
            paint.line([x - half, y, x + half, y], fill=(colour, colour, colour))
        mark.line([x - half, y, x + half, y], fill=255)


def write(folder: Path, count: int, seed: int) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    truths = []
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture, mask, curves = road(rng)
        picture.save(folder / "images" / f"{number:03d}.png")
        mask.save(folder / "masks" / f"{number:03d}.png")
        truths.append(curves)
    return truths


def curves_of(mask: np.ndarray) -> list[np.ndarray]:
    """(H, W) bool -> (a, b, c) of each connected line, by least squares over its pixels; near the horizon lines run together."""
    below = np.arange(len(mask))[:, None] >= HORIZON + FAR
    lines, count = label(mask & below, np.ones((3, 3)))
    found = []
    for line in range(1, count + 1):
        y, x = np.nonzero(lines == line)
        if len(y) >= SMALLEST and np.ptp(y) > 20:
            found.append(np.polyfit(y, x, 2))
    return found


def distances(found: list[np.ndarray], true: list[np.ndarray]) -> list[float]:
    """For each true line the mean distance across to the nearest curve; infinite where there is none."""
    rows = np.arange(HORIZON + FAR, HEIGHT)
    return [
        min(
            (float(np.abs(np.polyval(f, rows) - np.polyval(t, rows)).mean()) for f in found),
            default=np.inf,
        )
        for t in true
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    write(options.out / "roads", options.count, seed=0)
    truths = write(options.out / "unseen", 60, seed=1)
    settings = {"data.test": 0, "data.near_duplicates": 1, "backbone.weights": "offline"}
    fitted = foveate.fit(
        options.out / "roads",
        out=options.out / "run",
        size=256,
        epochs=options.epochs,
        settings=settings,
    )
    found = [
        answer.prediction.mask == 1
        for answer in foveate.predict(fitted.run, options.out / "unseen" / "images")
    ]
    away = np.array(
        [
            d
            for mask, true in zip(found, truths, strict=True)
            for d in distances(curves_of(mask), true)
        ]
    )
    near = away < NEAR
    extra = sum(
        max(0, len(curves_of(mask)) - len(true)) for mask, true in zip(found, truths, strict=True)
    )
    print(
        f"{near.sum()} of {len(away)} lines found ({near.mean():.1%}), on average {away[near].mean():.2f} px from the true curve"
    )
    print(f"{extra} curves too many on {len(truths)} roads of {WIDTH} x {HEIGHT} px")


if __name__ == "__main__":
    main()
