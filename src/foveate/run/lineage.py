"""Runs that continue runs: the data of an earlier run, beside the new data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveate.data.class_merging import read_recipe_table
from foveate.data.dataset import seed_from
from foveate.data.scan import ScannedTable
from foveate.data.splits import split_table
from foveate.errors import RunError, UsageError
from foveate.messages import Message, counted
from foveate.predictions import Labels
from foveate.recipe import Recipe, StartRecipe
from foveate.run.folder import Run
from foveate.types import Sample, Split, Table

_PREFIX = "earlier:"  # of the keys of samples of the earlier run


def read_run_table(run: Run) -> Table:
    """Read the data of a run, with the splits and groups that it wrote down.

    Images that were added since are left out.

    Raises:
        RunError: Some images are gone.
    """
    recipe = run.recipe()
    table = add_earlier_samples(read_recipe_table(recipe), recipe)
    known = {row["path"]: row for row in run.splits()}
    samples = [
        replace(sample, split=known[sample.key]["split"], group=known[sample.key]["group"])  # type: ignore[arg-type]
        for sample in table.samples
        if sample.key in known
    ]
    missing = sorted(known.keys() - {sample.key for sample in samples})
    if missing:
        raise RunError(
            f"{counted(len(missing), 'image', 'images')} of the run cannot be found",
            where=table.root,
            why=f"it has {len(known):,}; the first that is missing is {missing[0]!r}",
        )
    return table.with_samples(tuple(samples))


def open_earlier_run(recipe: Recipe) -> Run | None:
    """Open the finished run that a recipe continues; None if it continues none.

    Raises:
        UsageError: There is no run at its path, or it cannot be continued.
        RunError: It is not finished.
    """
    if not recipe.start.run:
        return None
    run = Run.open(Path(recipe.start.run))
    run.require_continuable()
    run.outcome()
    return run


def add_earlier_samples(table: Table, recipe: Recipe) -> Table:
    """Add the images of the run that a recipe continues.

    Those are its held-out images, and the replayed share of its training images. Its classes come
    first, in their order.

    Args:
        table: The new data.
        recipe: The recipe; if it continues no run, the table stays as it is.

    Raises:
        UsageError: The new data cannot be learned by that run.
    """
    run = open_earlier_run(recipe)
    if run is None:
        return table
    earlier = read_run_table(run)
    new_classes = [name for name in table.classes if name not in earlier.classes]
    classes = (*earlier.classes, *new_classes)
    _require_same_labels(table, earlier, bool(new_classes), run)
    # without groups of their own, near-duplicates are searched for in both together
    keep_groups = any(sample.group for sample in table.samples)
    replayed = _replayed_samples(earlier, recipe.start, recipe.seed, keep_groups)
    samples = [_remap(sample, table.classes, classes) for sample in table.samples]
    samples += [_remap(sample, earlier.classes, classes) for sample in replayed]
    return replace(table, samples=tuple(samples), classes=classes)


def _require_same_labels(table: Table, earlier: Table, has_new_classes: bool, run: Run) -> None:
    label_types = {type(sample.target) for sample in (*table.samples, *earlier.samples)}
    if len(label_types) > 1:
        what, why = "the new data have another label type than the run", f"the run is {run.folder}"
        raise UsageError(what, where=table.root, why=why)
    if has_new_classes and label_types != {Labels}:
        raise UsageError(
            "new classes can only be added to image classification",
            where=table.root,
            why=f"the run knows {', '.join(earlier.classes)}",
            hint="foveate fit on both datasets together",
        )


def _remap(sample: Sample, own: tuple[str, ...], classes: tuple[str, ...]) -> Sample:
    """Return a sample of a table with its `own` classes, with class indices in `classes`."""
    target: Any = sample.target
    return sample if target is None else replace(sample, target=target.in_classes(own, classes)[0])


def _replayed_samples(
    earlier: Table, start: StartRecipe, seed: int, keep_groups: bool
) -> list[Sample]:
    """Return all held-out samples, and a share of the training samples, drawn by the seed.

    What was held out from training for the comparison of tunings alone is trained on from now on.
    """
    training = earlier.in_split("train") + earlier.in_split("unlike")
    drawn = sorted(training, key=lambda sample: seed_from(seed, "replay", sample.key))
    replayed = {sample.key for sample in drawn[: round(start.replay * len(drawn))]}
    return [
        replace(
            sample,
            key=_PREFIX + sample.key,
            group=sample.group if keep_groups else None,
            split="train" if sample.split == "unlike" else sample.split,
        )
        for sample in earlier.samples
        if sample.split in ("val", "test") or sample.key in replayed
    ]


def is_earlier(sample: Sample) -> bool:
    """Whether a sample is from the run that is continued."""
    return sample.key.startswith(_PREFIX)


def split_beside_earlier(
    scanned: ScannedTable, groups: list[str], recipe: Recipe, run: Run
) -> tuple[ScannedTable, list[str], Message]:
    """Split the new images beside those of the earlier run.

    Images of the earlier run stay in their splits, and new near-duplicates of them go to the same
    ones. New files that are identical to files of the earlier run are left out.

    Args:
        scanned: New and earlier images.
        groups: The group of near-duplicates of each image.
        recipe: The recipe, with the shares of the splits.
        run: The earlier run.

    Returns:
        The images with splits, their groups, and where the splits come from.

    Raises:
        UsageError: There are no new images.
    """
    known = {row["sha256"] for row in run.splits()}
    samples = scanned.table.samples
    kept = [
        index
        for index, sample in enumerate(samples)
        if is_earlier(sample) or scanned.hashes[index] not in known
    ]
    new = [index for index in kept if not is_earlier(samples[index])]
    if not new:
        what = "all images of the new data belong to the earlier run already"
        raise UsageError(what, where=recipe.data.path)
    table = scanned.table.with_samples(tuple(samples[index] for index in new))
    table, reason = split_table(table, [groups[index] for index in new], recipe.data, recipe.seed)
    fixed: dict[str, Split] = {
        groups[index]: split
        for index in kept
        if is_earlier(samples[index]) and (split := samples[index].split) is not None
    }
    splits = {
        index: fixed.get(groups[index], sample.split)
        for index, sample in zip(new, table.samples, strict=True)
    }
    merged = tuple(
        replace(samples[index], split=splits.get(index, samples[index].split)) for index in kept
    )
    text = "{splits}; images of the earlier run keep their splits"
    reason = Message("choice.kept_splits", text, splits=reason)
    duplicates = len(samples) - len(kept)
    if duplicates:
        text = "{splits}; new files that are identical to them are left out ({count})"
        reason = Message("choice.left_out_copies", text, splits=reason, count=duplicates)
    scanned = scanned.subset(kept, scanned.table.with_samples(merged))
    return scanned, [groups[index] for index in kept], reason


def old_and_new(samples: Sequence[Sample], run: Run) -> dict[str, list[int]]:
    """Return the indices of old and of new samples, by "old" and "new".

    Old are those of the classes of the earlier run; or, if there are no new classes, those of its
    images. A part without samples is left out.
    """
    classes = set(run.classes())
    labels = [set(sample.target.names) for sample in samples if isinstance(sample.target, Labels)]
    if any(not names <= classes for names in labels):
        is_old = [names <= classes for names in labels]
    else:
        is_old = [is_earlier(sample) for sample in samples]
    parts = {
        "old": [index for index, old in enumerate(is_old) if old],
        "new": [index for index, old in enumerate(is_old) if not old],
    }
    return {name: indices for name, indices in parts.items() if indices}
