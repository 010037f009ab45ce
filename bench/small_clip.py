"""A small CLIP, trained from nothing on emoji (name <-> picture), and how well it finds emoji whose
names it never saw.

    python bench/small_clip.py --data DATA --out OUT [--ways both google twitter] [--seeds 0]
    [--epochs 40] [--threads 1]
    python bench/small_clip.py ... --validate 1 --ways both one-view no-pictures ...      # how the
    settings were chosen

DATA holds `emoji`. A fifth of the names is unseen: drawn once (SPLIT), in both drawing styles, for
every way and seed alike. An eighth is for validation: with --validate these names are not trained
on but scored, and the unseen ones are not touched. Without it they join the training, and the model
is saved as OUT/small-clip-WAY-SEED in open_clip's format, opened again with `clip:FOLDER`, and
scored on the unseen names.

A picture is to find its name among all unseen names, a name its picture among all unseen pictures
of a style, a picture the one of the other style. Ways `google` and `twitter` train on one style, so
that the other is as new as the names. Rows land in OUT/small-clip.jsonl, and a row that is there is
not measured again. --epochs 0 scores random weights, for comparison.
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

from foveate.evaluation.intervals import bootstrap, wilson
from foveate.images import codec as images
from foveate.modeling.backbones import FAMILIES
from foveate.types import Provides
from spine import Rows, words

STYLES = ("google", "twitter")
SPLIT = 0  # seed of the split into names
UNSEEN, VALIDATION = 5, 8  # one name of so many
SIDE = 48  # px
CONFIG: dict[str, Any] = {
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
SIDED = {"left", "right", "leftwards", "rightwards", "clock", "arrow", "letter", "keycap"}


@dataclass(frozen=True)
class Way:
    """How a model is trained.

    `styles`: whose pictures. `together`: every name brings its picture of each style in a step, and
    the two find each other too, with this weight in the loss; 0: one style at random. `jitter`:
    strength of turns, zooms, shifts and colours. `category`: chance that a name is joined by its
    category. `dropped`: chance of each word of a name to be left out. `template`: chance of a
    sentence round the name. `layers`: of the text network.
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


WAYS = {
    "both": Way(),
    "google": Way(styles=("google",)),
    "twitter": Way(styles=("twitter",)),
    "one-view": Way(together=0),
    "no-jitter": Way(jitter=0),
    "much-jitter": Way(jitter=1),
    "no-category": Way(category=0),
    "much-category": Way(category=0.6),
    "whole-names": Way(dropped=0),
    "torn-names": Way(dropped=0.3),
    "no-template": Way(template=0),
    "text-1": Way(layers=1),
    "text-4": Way(layers=4),
    "batch-64": Way(batch=64),
    "batch-256": Way(batch=256),
}


# --- data


def named(folder: Path) -> dict[str, dict[str, Any]]:
    """name -> its row; of two emoji with one name the second is left out."""
    rows = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    return {row["name"]: row for row in reversed(rows)}


def parted(names: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Unseen names, those for validation, those for training."""
    order = np.random.default_rng(SPLIT).permutation(len(names))
    mixed = [names[index] for index in order]
    first, second = len(names) // UNSEEN, len(names) // UNSEEN + len(names) // VALIDATION
    return mixed[:first], mixed[first:second], mixed[second:]


def pictures(folder: Path, rows: list[dict[str, Any]]) -> Tensor:
    """(N, 3, SIDE, SIDE) uint8."""
    found = [images.read_image(folder / row["image"], SIDE)[0] for row in rows]
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()


def normalised(pixels: Tensor) -> Tensor:
    return (pixels.float() / 255 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(
        1, 3, 1, 1
    )


def plain(name: str) -> str:
    """In lower case, words and spaces alone."""
    return " ".join(re.findall(r"[\w']+", name.lower().replace("_", " ")))


def sentence(row: dict[str, Any], way: Way, draw: random.Random) -> str:
    """The name as training reads it: sometimes a short one, without a word, with its category,
    inside a template.
    """
    name = plain(draw.choice(row["short_names"]) if draw.random() < 0.25 else row["name"])
    name = " ".join(word for word in name.split() if draw.random() >= way.dropped) or name
    if draw.random() < way.category:
        parts = [name, plain(draw.choice([row["category"], row["subcategory"]]))]
        draw.shuffle(parts)
        name = " ".join(parts)
    return draw.choice(TEMPLATES).format(name) if draw.random() < way.template else name


def sided(row: dict[str, Any]) -> bool:
    """Whether a flip would make another sign of it."""
    return row["category"] == "Symbols" or bool(SIDED & set(plain(row["name"]).split()))


def jittered(pixels: Tensor, flips: Tensor, strength: float) -> Tensor:
    """Turned by up to 15 degrees, zoomed, shifted on white, flipped where `flips`, brighter or
    darker, of other colours.
    """
    count = len(pixels)

    def drawn(reach: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape) * 2 - 1) * reach * strength

    angle, zoom = drawn(math.radians(15)), drawn(0.25).exp()
    mirror = torch.where(flips & (torch.rand(count) < 0.5), -1.0, 1.0)
    rows = [
        zoom * angle.cos() * mirror,
        -zoom * angle.sin(),
        zoom * angle.sin() * mirror,
        zoom * angle.cos(),
    ]
    moves = torch.cat([torch.stack(rows, 1).view(count, 2, 2), drawn(0.12, 2, 1)], 2)
    grid = functional.affine_grid(moves, list(pixels.shape), align_corners=False)
    moved = 255 - functional.grid_sample(255 - pixels.float(), grid, align_corners=False)
    bright = (
        (moved - 128) * (1 + drawn(0.3, 1, 1, 1)) * (1 + drawn(0.1, 3, 1, 1))
        + 128
        + drawn(30, 1, 1, 1)
    )
    gray = bright.mean(1, keepdim=True)
    return (gray + (bright - gray) * (1 + drawn(0.3, 1, 1, 1))).clamp(0, 255)


# --- training


def contrast(one: Tensor, other: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE loss of CLIP (Radford et al. 2021, figure 3) of (B, D) unit vectors."""
    logits, own = scale * one @ other.T, torch.arange(len(one))
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def trained(folder: Path, rows: list[dict[str, Any]], way: Way, epochs: int, seed: int) -> Any:
    torch.manual_seed(seed)
    draw = random.Random(seed)
    model = open_clip.CLIP(**described(way)).to(memory_format=torch.channels_last)
    tokenizer = open_clip.SimpleTokenizer(context_length=CONFIG["text_cfg"]["context_length"])
    pixels = torch.stack([pictures(folder / style, rows) for style in way.styles])
    flips = torch.tensor([not sided(row) for row in rows])
    optimizer, steps = optimizer_of(model, way), epochs * (len(rows) // way.batch)
    for step, places in enumerate(drawn_places(len(rows), way.batch, epochs)):
        views = (
            range(len(way.styles))
            if way.together
            else [torch.randint(len(way.styles), (len(places),))]
        )
        seen = torch.cat(
            [jittered(pixels[view, places], flips[places], way.jitter) for view in views]
        )
        seen = normalised(seen).contiguous(memory_format=torch.channels_last)
        found = model.encode_image(seen, normalize=True).split(len(places))
        texts = model.encode_text(
            tokenizer([sentence(rows[place], way, draw) for place in places]), normalize=True
        )
        scale = model.logit_scale.exp()
        loss = sum(contrast(view, texts, scale) for view in found) / len(found)
        if len(found) > 1:
            loss = loss + way.together * contrast(*found, scale)
        for group in optimizer.param_groups:
            group["lr"] = (
                way.rate * min(1, 20 * step / steps) * (1 + math.cos(math.pi * step / steps)) / 2
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def drawn_places(count: int, batch: int, epochs: int) -> Iterator[Tensor]:
    """Full batches of every epoch's order."""
    for _ in range(epochs):
        yield from torch.randperm(count)[: count - count % batch].split(batch)


def described(way: Way) -> dict[str, Any]:
    return CONFIG | {"text_cfg": CONFIG["text_cfg"] | {"layers": way.layers}}


def optimizer_of(model: Any, way: Way) -> torch.optim.Optimizer:
    """Words are rare: their embeddings, like vectors and scalars, are not pulled to 0."""
    decays = [
        value
        for name, value in model.named_parameters()
        if value.ndim > 1 and "embedding" not in name
    ]
    known = {id(value) for value in decays}
    rest = [value for value in model.parameters() if id(value) not in known]
    groups = [{"params": decays, "weight_decay": way.decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=way.rate, betas=(0.9, 0.98), fused=True)


def saved(model: Any, way: Way, folder: Path) -> Path:
    """In open_clip's format, for `--backbone clip:FOLDER`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    content = {"model_cfg": described(way), "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    return folder


# --- scores


@torch.inference_mode()
def embedded(backbone: Any, folder: Path, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """(N, D) of length 1: the names, and the pictures of each style."""
    found = {
        style: backbone(normalised(pictures(folder / style, rows)), {Provides.POOLED}).pooled
        for style in STYLES
    }
    found["name"] = backbone.embed_text([plain(row["name"]) for row in rows])
    return {what: functional.normalize(value, dim=1) for what, value in found.items()}


def hits(queries: Tensor, answers: Tensor, top: int) -> np.ndarray:
    """(N,) bool: whether the n-th answer is among the `top` that are nearest to the n-th query."""
    nearest = (queries @ answers.T).topk(top, 1).indices
    return (nearest == torch.arange(len(queries))[:, None]).any(1).numpy()


def scores(found: dict[str, Tensor], composed: np.ndarray) -> dict[str, dict[str, float]]:
    """Every query and answer, with 95 % intervals.

    `mean`: over the four of names and pictures, its interval over names; also over the names that
    are `composed` (N,) of words that training has read, and over the others, among the same
    answers.
    """
    pairs = (
        [(style, "name") for style in STYLES]
        + [("name", style) for style in STYLES]
        + [STYLES, STYLES[::-1]]
    )
    told = {}
    for top in (1, 5):
        won = {
            f"{query} -> {answer}": hits(found[query], found[answer], top)
            for query, answer in pairs
        }
        chance = top / len(composed)
        for pair, each in won.items():
            low, high = wilson(int(each.sum()), len(each))
            told[f"{pair}, top {top}"] = {
                "value": float(each.mean()),
                "low": low,
                "high": high,
                "chance": chance,
            }
        four = np.mean([each for pair, each in won.items() if "name" in pair], 0)
        parts = {"": composed | True, " of known words": composed, " with a new word": ~composed}
        for part, own in ((part, four[chosen]) for part, chosen in parts.items()):
            low, high = bootstrap(
                lambda places, own=own: float(own[places].mean()), len(own), rounds=2000
            )
            about = {"chance": chance, "count": len(own)}
            told[f"mean{part}, top {top}"] = {
                "value": float(own.mean()),
                "low": low,
                "high": high,
                **about,
            }
    return told


def summary(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| way | seed | names | epochs | seconds | of | found | 95 % | chance | times chance |",
        "|---|" + "---|" * 9,
    ]
    for row in rows:
        about = (
            f"| {row['way']} | {row['seed']} | {row['names']} | {row['epochs']} | "
            f"{row['seconds']:.0f}"
        )
        for what, score in row["scores"].items():
            ends = (
                f"{score['low']:.3f} to {score['high']:.3f} | {score['chance']:.4f} | "
                f"{score['value'] / score['chance']:.1f}"
            )
            lines.append(f"{about} | {what} | {score['value']:.3f} | {ends} |")
    return "\n".join(lines)


def words_of(rows: list[dict[str, Any]]) -> set[str]:
    """All that training can read of them."""
    texts = [
        text
        for row in rows
        for text in (row["name"], *row["short_names"], row["category"], row["subcategory"])
    ]
    return {word for text in texts for word in plain(text).split()}


def measured(
    folder: Path,
    taught: list[dict[str, Any]],
    asked: list[dict[str, Any]],
    way: Way,
    epochs: int,
    seed: int,
    where: Path,
) -> dict[str, Any]:
    """Trains on `taught`, saves at `where`, opens it as a user would, scores `asked`; seconds: of
    the processor, in training.
    """
    start = time.process_time()
    model = trained(folder, taught, way, epochs, seed)
    seconds = time.process_time() - start
    backbone = FAMILIES.get("clip")().open(f"clip:{saved(model, way, where)}", "auto").eval()
    read = words_of(taught)
    composed = np.array([set(plain(row["name"]).split()) <= read for row in asked])
    return {
        "seconds": round(seconds, 1),
        "count": len(asked),
        "scores": scores(embedded(backbone, folder, asked), composed),
    }


def main() -> None:
    options = words(
        __doc__, ["emoji"], ["both", "google", "twitter"], threads=1, epochs=40, validate=0
    )
    torch.set_num_threads(options.threads)
    folder, rows = options.data / "emoji", Rows(options.out / "small-clip.jsonl")
    known = named(folder)
    unseen, validation, training = (
        [known[name] for name in part] for part in parted(sorted(known))
    )
    asked, taught = (validation, training) if options.validate else (unseen, training + validation)
    kind = "validation" if options.validate else "unseen"
    for name in options.ways:
        for seed in options.seeds:
            about = {"way": name, "seed": seed, "names": kind, "epochs": options.epochs}
            if not rows.has(**about):
                where = options.out / f"small-clip-{kind}-{name}-{seed}"
                rows.add(
                    {
                        **about,
                        **measured(folder, taught, asked, WAYS[name], options.epochs, seed, where),
                    }
                )
    print(summary(rows.rows))


if __name__ == "__main__":
    main()
