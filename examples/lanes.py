"""Lane lines: segmentation, and a curve through the pixels of each line.

    python examples/lanes.py OUT [--count 160] [--epochs 12]

Draws its own roads, because there is no public data set of lanes beside this project: two or three
lines that bend towards a vanishing point, some dashed, with noise, shadow and glare, and with
things that look like lines but are none. Trains `foveate fit` on masks of the lines, turns every
predicted mask into curves x = a y^2 + b y + c, and prints how far they are from the true ones, in
pixels across, for roads that were not used for training, with the share of lines that were found.
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
FAR = 20  # px below the horizon: what lies nearer to the horizon is not evaluated
SMALLEST = 40  # pixels of a line, from which a curve is fitted to them


def road(rng: np.random.Generator) -> tuple[Image.Image, Image.Image, list[np.ndarray]]:
    """An image, its mask (255 on lines), and the true (a, b, c) of each line."""
    image = Image.new(
        "RGB", (WIDTH, HEIGHT), tuple(int(value) for value in rng.integers(120, 220, 3))
    )
    mask = Image.new("L", (WIDTH, HEIGHT), 0)
    on_image, on_mask = ImageDraw.Draw(image), ImageDraw.Draw(mask)
    gray = int(rng.integers(50, 110))
    asphalt = (gray, gray, gray + int(rng.integers(-8, 8)))
    on_image.rectangle([0, HORIZON, WIDTH, HEIGHT], fill=asphalt)
    for _ in range(3):  # curbs and shadows: straight and horizontal, not lane lines
        y = int(rng.integers(HORIZON, HEIGHT))
        shade = int(rng.integers(20, 200))
        on_image.line(
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
        draw_line(on_image, on_mask, curve, rng)
        curves.append(curve)
    pixels = np.asarray(image, np.float32) * rng.uniform(0.6, 1.1)
    noise = rng.normal(0, 10, pixels.shape)
    pixels += noise + np.linspace(0, rng.uniform(-40, 40), WIDTH)[None, :, None]  # glare
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), mask, curves


def draw_line(
    on_image: ImageDraw.ImageDraw,
    on_mask: ImageDraw.ImageDraw,
    curve: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """The line may be dashed; the mask is the whole line, because that is what a driver needs."""
    dashed, phase, shade = rng.uniform(0, 1) < 0.5, rng.uniform(0, 20), int(rng.integers(170, 255))
    for y in range(HORIZON + 6, HEIGHT):
        x, half = float(np.polyval(curve, y)), 0.6 + 2.6 * (y - HORIZON) / (HEIGHT - HORIZON)
        if not dashed or (y + phase) % 24 < 15:
            on_image.line([x - half, y, x + half, y], fill=(shade, shade, shade))
        on_mask.line([x - half, y, x + half, y], fill=255)


def write(folder: Path, count: int, seed: int) -> list[list[np.ndarray]]:
    """Write `count` roads into images/ and masks/; returns the true curves of each."""
    rng = np.random.default_rng(seed)
    targets = []
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image, mask, curves = road(rng)
        image.save(folder / "images" / f"{number:03d}.png")
        mask.save(folder / "masks" / f"{number:03d}.png")
        targets.append(curves)
    return targets


def fit_curves(mask: np.ndarray) -> list[np.ndarray]:
    """(H, W) bool -> (a, b, c) of each connected line, by least squares over its pixels.

    Pixels near the horizon are left out, because lines run together there.
    """
    below = np.arange(len(mask))[:, None] >= HORIZON + FAR
    lines, count = label(mask & below, np.ones((3, 3)))
    curves = []
    for line in range(1, count + 1):
        y, x = np.nonzero(lines == line)
        if len(y) >= SMALLEST and np.ptp(y) > 20:
            curves.append(np.polyfit(y, x, 2))
    return curves


def distances(predicted: list[np.ndarray], targets: list[np.ndarray]) -> list[float]:
    """For each true line the mean distance across to the nearest curve; infinite without one."""
    rows = np.arange(HORIZON + FAR, HEIGHT)
    return [
        min(
            (
                float(np.abs(np.polyval(curve, rows) - np.polyval(target, rows)).mean())
                for curve in predicted
            ),
            default=np.inf,
        )
        for target in targets
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
    targets = write(options.out / "unseen", 60, seed=1)
    fitted = foveate.fit(
        options.out / "roads",
        out=options.out / "run",
        size=256,
        epochs=options.epochs,
        settings={"data.test": 0, "data.near_duplicates": 1, "backbone.weights": "offline"},
    )
    predictions = foveate.predict(fitted.run, options.out / "unseen" / "images")
    curves = [fit_curves(each.prediction.mask == 1) for each in predictions]
    pairs = list(zip(curves, targets, strict=True))
    errors = np.array([error for pair in pairs for error in distances(*pair)])
    near = errors < NEAR
    extra = sum(max(0, len(predicted) - len(true)) for predicted, true in pairs)
    print(
        f"{near.sum()} of {len(errors)} lines found ({near.mean():.1%}), "
        f"on average {errors[near].mean():.2f} px from the true curve"
    )
    print(f"{extra} curves too many on {len(targets)} roads of {WIDTH} x {HEIGHT} px")


if __name__ == "__main__":
    main()
