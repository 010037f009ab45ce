"""A small CLIP, trained from scratch on emoji (name <-> image), and retrieval of unseen names.

    python bench/small_clip.py --data DATA --out OUT [--cases both google twitter] [--seeds 0]
        [--epochs 40] [--threads 1]
    python bench/small_clip.py ... --validate --cases both one-view no-jitter ...
        # how the settings were selected

DATA holds `emoji`. A fifth of the names is unseen: drawn once (SPLIT), in both drawing styles, the
same for every case and seed. An eighth is for validation: with --validate these names are not used
for training but scored, and the unseen ones are not touched. Without it they join the training, and
the model is saved as OUT/small-clip-unseen-CASE-SEED in open_clip's format, opened again with
`clip:FOLDER`, and scored on the unseen names.

Queries and targets: an image and its name among all unseen names, a name and its image among all
unseen images of a style, an image and that of the other style. The cases `google` and `twitter`
train on one style, so that the other is as new as the names. --epochs 0 scores random weights, for
comparison.

Rows are appended to OUT/small_clip.jsonl; those already there are not measured again. Prints a
table.
"""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from common import ResultFile, parse_options
from foveate.evaluation.intervals import paired_mean_difference, wilson
from foveate.images.codec import read_image
from foveate.modeling.backbones import FAMILIES
from foveate.types import Provides

STYLES = ("google", "twitter")
SPLIT = 0  # seed of the split into names
UNSEEN, VALIDATION = 5, 8  # one name of this many
SIDE = 48  # px
MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 32},
    "text_cfg": {"context_length": 24, "width": 128, "heads": 4, "layers": 2},
}
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
TEMPLATES = (
    "a photo of a {}.",
    "a picture of a {}.",
    "a drawing of a {}.",
    "an emoji of a {}.",
    "{}.",
    "the {}.",
)
DIRECTED = {"left", "right", "leftwards", "rightwards", "clock", "arrow", "letter", "keycap"}


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained.

    Attributes:
        styles: Drawing styles of the images.
        together: Weight of the contrastive loss between the images of both styles; every name
            then brings its image of each style. 0: one style at random.
        jitter: Strength of rotation, scaling, translation and color jitter.
        category: Probability that the category is added to a name.
        dropped: Probability that a word of a name is left out.
        template: Probability of a template sentence around the name.
        layers: Layers of the text network.
        batch: Batch size.
        rate: Learning rate.
        decay: Weight decay.
    """

    styles: tuple[str, ...] = STYLES
    together: float = 0.5
    jitter: float = 0.5
    category: float = 0.3
    dropped: float = 0.1
    template: float = 0.5
    layers: int = 2
    batch: int = 128
    rate: float = 1e-3
    decay: float = 0.2


CONFIGS = {
    "both": TrainConfig(),
    "google": TrainConfig(styles=("google",)),
    "twitter": TrainConfig(styles=("twitter",)),
    "one-view": TrainConfig(together=0),
    "no-jitter": TrainConfig(jitter=0),
    "much-jitter": TrainConfig(jitter=1),
    "no-category": TrainConfig(category=0),
    "much-category": TrainConfig(category=0.6),
    "whole-names": TrainConfig(dropped=0),
    "torn-names": TrainConfig(dropped=0.3),
    "no-template": TrainConfig(template=0),
    "text-1": TrainConfig(layers=1),
    "text-4": TrainConfig(layers=4),
    "batch-64": TrainConfig(batch=64),
    "batch-256": TrainConfig(batch=256),
}


# --- data


def rows_by_name(folder: Path) -> dict[str, dict[str, Any]]:
    """Return rows by name; of two emoji with one name the second is left out."""
    rows = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    return {row["name"]: row for row in reversed(rows)}


def split_names(names: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Return unseen names, validation names and training names."""
    order = np.random.default_rng(SPLIT).permutation(len(names))
    mixed = [names[index] for index in order]
    first, second = len(names) // UNSEEN, len(names) // UNSEEN + len(names) // VALIDATION
    return mixed[:first], mixed[first:second], mixed[second:]


def read_images(folder: Path, rows: list[dict[str, Any]]) -> Tensor:
    """Return images (N, 3, SIDE, SIDE) uint8."""
    images = [read_image(folder / row["image"], SIDE)[0] for row in rows]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def normalize(pixels: Tensor) -> Tensor:
    return (pixels.float() / 255 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(
        1, 3, 1, 1
    )


def normalize_text(name: str) -> str:
    """Return the name in lower case, with words and spaces alone."""
    return " ".join(re.findall(r"[\w']+", name.lower().replace("_", " ")))


def caption(row: dict[str, Any], config: TrainConfig, rng: random.Random) -> str:
    """Return a caption for training.

    At random: a short name, without a word, with its category, inside a template.
    """
    name = normalize_text(rng.choice(row["short_names"]) if rng.random() < 0.25 else row["name"])
    name = " ".join(word for word in name.split() if rng.random() >= config.dropped) or name
    if rng.random() < config.category:
        parts = [name, normalize_text(rng.choice([row["category"], row["subcategory"]]))]
        rng.shuffle(parts)
        name = " ".join(parts)
    return rng.choice(TEMPLATES).format(name) if rng.random() < config.template else name


def has_direction(row: dict[str, Any]) -> bool:
    """Whether a flip would change the meaning."""
    return row["category"] == "Symbols" or bool(DIRECTED & set(normalize_text(row["name"]).split()))


def jitter(pixels: Tensor, flips: Tensor, strength: float) -> Tensor:
    """Rotate by up to 15 degrees, scale, shift on white, flip where `flips`, jitter colors."""
    count = len(pixels)

    def uniform(limit: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape) * 2 - 1) * limit * strength

    angle, scale = uniform(math.radians(15)), uniform(0.25).exp()
    flip = torch.where(flips & (torch.rand(count) < 0.5), -1.0, 1.0)
    rows = [
        scale * angle.cos() * flip,
        -scale * angle.sin(),
        scale * angle.sin() * flip,
        scale * angle.cos(),
    ]
    matrices = torch.cat([torch.stack(rows, 1).view(count, 2, 2), uniform(0.12, 2, 1)], 2)
    grid = functional.affine_grid(matrices, list(pixels.shape), align_corners=False)
    moved = 255 - functional.grid_sample(255 - pixels.float(), grid, align_corners=False)
    colored = (
        (moved - 128) * (1 + uniform(0.3, 1, 1, 1)) * (1 + uniform(0.1, 3, 1, 1))
        + 128
        + uniform(30, 1, 1, 1)
    )
    gray = colored.mean(1, keepdim=True)
    return (gray + (colored - gray) * (1 + uniform(0.3, 1, 1, 1))).clamp(0, 255)


# --- training


def contrastive_loss(first: Tensor, second: Tensor, scale: Tensor) -> Tensor:
    """Return the symmetric InfoNCE loss of (B, D) unit vectors (Radford et al. 2021, figure 3)."""
    logits, targets = scale * first @ second.T, torch.arange(len(first))
    return (
        functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)
    ) / 2


def train(
    folder: Path, rows: list[dict[str, Any]], config: TrainConfig, epochs: int, seed: int
) -> Any:
    """Train a model from random weights, and return it in evaluation mode."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = open_clip.CLIP(**model_config(config)).to(memory_format=torch.channels_last)
    tokenizer = open_clip.SimpleTokenizer(context_length=MODEL_CONFIG["text_cfg"]["context_length"])
    pixels = torch.stack([read_images(folder / style, rows) for style in config.styles])
    flips = torch.tensor([not has_direction(row) for row in rows])
    optimizer, steps = create_optimizer(model, config), epochs * (len(rows) // config.batch)
    for step, indices in enumerate(draw_batches(len(rows), config.batch, epochs)):
        views = (
            range(len(config.styles))
            if config.together
            else [torch.randint(len(config.styles), (len(indices),))]
        )
        inputs = torch.cat(
            [jitter(pixels[view, indices], flips[indices], config.jitter) for view in views]
        )
        inputs = normalize(inputs).contiguous(memory_format=torch.channels_last)
        embedded = model.encode_image(inputs, normalize=True).split(len(indices))
        texts = model.encode_text(
            tokenizer([caption(rows[index], config, rng) for index in indices]), normalize=True
        )
        scale = model.logit_scale.exp()
        loss = sum(contrastive_loss(view, texts, scale) for view in embedded) / len(embedded)
        if len(embedded) > 1:
            loss = loss + config.together * contrastive_loss(*embedded, scale)
        for group in optimizer.param_groups:
            group["lr"] = (
                config.rate * min(1, 20 * step / steps) * (1 + math.cos(math.pi * step / steps)) / 2
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def draw_batches(count: int, batch: int, epochs: int) -> Iterator[Tensor]:
    """Yield the indices of full batches, in random order in every epoch."""
    for _ in range(epochs):
        yield from torch.randperm(count)[: count - count % batch].split(batch)


def model_config(config: TrainConfig) -> dict[str, Any]:
    return MODEL_CONFIG | {"text_cfg": MODEL_CONFIG["text_cfg"] | {"layers": config.layers}}


def create_optimizer(model: Any, config: TrainConfig) -> torch.optim.Optimizer:
    """Create AdamW; no decay for vectors, scalars, and embeddings, since most words are rare."""
    decayed = [
        value
        for name, value in model.named_parameters()
        if value.ndim > 1 and "embedding" not in name
    ]
    ids = {id(value) for value in decayed}
    rest = [value for value in model.parameters() if id(value) not in ids]
    groups = [
        {"params": decayed, "weight_decay": config.decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.98), fused=True)


def save(model: Any, config: TrainConfig, folder: Path) -> Path:
    """Write the model in open_clip's format, for `--backbone clip:FOLDER`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    content = {"model_cfg": model_config(config), "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    return folder


# --- scores


@torch.inference_mode()
def embed(backbone: Any, folder: Path, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Return unit vectors (N, D) of the names, and of the images of each style."""
    vectors = {
        style: backbone(normalize(read_images(folder / style, rows)), {Provides.POOLED}).pooled
        for style in STYLES
    }
    vectors["name"] = backbone.embed_text([normalize_text(row["name"]) for row in rows])
    return {key: functional.normalize(value, dim=1) for key, value in vectors.items()}


def hits(queries: Tensor, targets: Tensor, top: int) -> np.ndarray:
    """Return (N,) bool: whether target n is among the `top` nearest to query n."""
    nearest = (queries @ targets.T).topk(top, 1).indices
    return (nearest == torch.arange(len(queries))[:, None]).any(1).numpy()


def scores(vectors: dict[str, Tensor], composed: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the recall of every pair of query and target, with 95 % intervals.

    `mean` is over the four pairs of names and images, its interval over names. It is also given for
    the names that are `composed` (N,) of words of the training names, and for the others, among the
    same targets.
    """
    pairs = (
        [(style, "name") for style in STYLES]
        + [("name", style) for style in STYLES]
        + [STYLES, STYLES[::-1]]
    )
    rows = {}
    for top in (1, 5):
        correct = {
            f"{query} -> {target}": hits(vectors[query], vectors[target], top)
            for query, target in pairs
        }
        chance = top / len(composed)
        for pair, each in correct.items():
            low, high = wilson(int(each.sum()), len(each))
            rows[f"{pair}, top {top}"] = {
                "value": float(each.mean()),
                "low": low,
                "high": high,
                "chance": chance,
            }
        four = np.mean([each for pair, each in correct.items() if "name" in pair], 0)
        parts = {"": composed | True, " of known words": composed, " with a new word": ~composed}
        for part, values in ((part, four[chosen]) for part, chosen in parts.items()):
            _, low, high = paired_mean_difference(values, np.zeros(len(values)))
            extra = {"chance": chance, "count": len(values)}
            rows[f"mean{part}, top {top}"] = {
                "value": float(values.mean()),
                "low": low,
                "high": high,
                **extra,
            }
    return rows


def summary(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table."""
    lines = [
        "| case | seed | names | epochs | seconds | query -> target | recall | 95 % | chance | "
        "times chance |",
        "|---|" + "---|" * 9,
    ]
    for row in rows:
        prefix = (
            f"| {row['case']} | {row['seed']} | {row['names']} | {row['epochs']} | "
            f"{row['seconds']:.0f}"
        )
        for pair, score in row["scores"].items():
            ends = (
                f"{score['low']:.3f} to {score['high']:.3f} | {score['chance']:.4f} | "
                f"{score['value'] / score['chance']:.1f}"
            )
            lines.append(f"{prefix} | {pair} | {score['value']:.3f} | {ends} |")
    return "\n".join(lines)


def training_words(rows: list[dict[str, Any]]) -> set[str]:
    """Return all words that can occur in captions of these rows."""
    texts = [
        text
        for row in rows
        for text in (row["name"], *row["short_names"], row["category"], row["subcategory"])
    ]
    return {word for text in texts for word in normalize_text(text).split()}


def measure(
    folder: Path,
    training: list[dict[str, Any]],
    test: list[dict[str, Any]],
    config: TrainConfig,
    epochs: int,
    seed: int,
    out: Path,
) -> dict[str, Any]:
    """Train, save to `out`, open the model as a user would, and score the test names.

    The seconds are CPU seconds of the training.
    """
    start = time.process_time()
    model = train(folder, training, config, epochs, seed)
    seconds = time.process_time() - start
    backbone = FAMILIES.get("clip")().open(f"clip:{save(model, config, out)}", "auto").eval()
    known_words = training_words(training)
    composed = np.array([set(normalize_text(row["name"]).split()) <= known_words for row in test])
    return {
        "seconds": round(seconds, 1),
        "count": len(test),
        "scores": scores(embed(backbone, folder, test), composed),
    }


def main() -> None:
    options = parse_options(
        __doc__, [], ["both", "google", "twitter"], threads=1, epochs=40, validate=False
    )
    torch.set_num_threads(options.threads)
    folder, results = options.data / "emoji", ResultFile(options.out / "small_clip.jsonl")
    by_name = rows_by_name(folder)
    unseen, validation, rest = (
        [by_name[name] for name in part] for part in split_names(sorted(by_name))
    )
    test, training = (validation, rest) if options.validate else (unseen, rest + validation)
    kind = "validation" if options.validate else "unseen"
    for name in options.cases:
        for seed in options.seeds:
            key = {"case": name, "seed": seed, "names": kind, "epochs": options.epochs}
            if not results.has(**key):
                out = options.out / f"small-clip-{kind}-{name}-{seed}"
                results.add(
                    {
                        **key,
                        **measure(folder, training, test, CONFIGS[name], options.epochs, seed, out),
                    }
                )
    print(summary(results.rows))


if __name__ == "__main__":
    main()
