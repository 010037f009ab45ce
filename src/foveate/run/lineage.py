"""TODO-DOC foveate.run.lineage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveate.data.dataset import seed_from
from foveate.data.formats import read_table
from foveate.data.scan import ScannedTable
from foveate.data.splits import split_table
from foveate.errors import RunError, UsageError
from foveate.predictions import Labels
from foveate.recipe import Recipe, StartRecipe
from foveate.run.folder import Run
from foveate.types import Sample, Split, Table

_MARK = "earlier:"  # before the keys of its pictures


def read_run_table(run: Run) -> Table:
    """The pictures that a run knows, with the splits and groups that it wrote down.

    Raises RunError when some are not there any more; pictures that it did not know are left out.
    """
    recipe = run.recipe()
    table = add_earlier_samples(read_table(Path(recipe.data.path), recipe.data.format), recipe)
    known = {row["path"]: row for row in run.splits()}
    samples = [
        replace(sample, split=known[sample.key]["split"], group=known[sample.key]["group"])  # type: ignore[arg-type]
        for sample in table.samples
        if sample.key in known
    ]
    if len(samples) < len(known):
        gone = sorted(known.keys() - {sample.key for sample in samples})
        raise RunError(
            f"{len(gone)} of the run's {len(known)} pictures are not there any more",
            where=table.root,
            why=f"first {gone[0]!r}",
        )
    return table.with_samples(tuple(samples))


def open_earlier_run(recipe: Recipe) -> Run | None:
    """The finished run that the recipe goes on from; raises UsageError and RunError where there is none at its path."""
    if not recipe.start.run:
        return None
    run = Run.open(Path(recipe.start.run))
    run.require_continuable()
    run.outcome()
    return run


def add_earlier_samples(table: Table, recipe: Recipe) -> Table:
    """The table and, where the recipe goes on from a run, its held-out pictures and the replayed share of its training
    pictures. Its classes come first, in their order."""
    run = open_earlier_run(recipe)
    if run is None:
        return table
    older = read_run_table(run)
    classes = (*older.classes, *(name for name in table.classes if name not in older.classes))
    answers = {type(sample.target) for sample in (*table.samples, *older.samples)}
    if len(answers) > 1:
        raise UsageError(
            "the new data asks another question than the run",
            where=recipe.data.path,
            why=f"the run is {run.folder}",
        )
    if len(classes) > len(older.classes) and answers != {Labels}:
        why = f"the run knows {', '.join(older.classes)}"
        raise UsageError(
            "only whole images can get new classes",
            where=recipe.data.path,
            why=why,
            hint="foveate fit both together",
        )
    grouped = any(
        sample.group for sample in table.samples
    )  # else near-copies are looked for in both together
    both = [*table.samples, *_replayed(older, recipe.start, recipe.seed, grouped)]
    sources = [table.classes] * len(table.samples) + [older.classes] * (
        len(both) - len(table.samples)
    )
    moved = [
        _in_classes(sample, theirs, classes) for sample, theirs in zip(both, sources, strict=True)
    ]
    return replace(table, samples=tuple(moved), classes=classes)


def _in_classes(sample: Sample, theirs: tuple[str, ...], ours: tuple[str, ...]) -> Sample:
    truth: Any = sample.target
    return sample if truth is None else replace(sample, target=truth.in_classes(theirs, ours)[0])


def _replayed(older: Table, start: StartRecipe, seed: int, grouped: bool) -> list[Sample]:
    """All held-out pictures, and the share of the training pictures that the seed draws; with their groups where `grouped`."""
    drawn = sorted(older.in_split("train"), key=lambda sample: seed_from(seed, "replay", sample.key))
    kept = {sample.key for sample in drawn[: round(start.replay * len(drawn))]}
    samples = [sample for sample in older.samples if sample.split != "train" or sample.key in kept]
    return [
        replace(sample, key=_MARK + sample.key, group=sample.group if grouped else None)
        for sample in samples
    ]


def is_earlier(sample: Sample) -> bool:
    return sample.key.startswith(_MARK)


def split_beside_earlier(
    scanned: ScannedTable, groups: list[str], recipe: Recipe, run: Run
) -> tuple[ScannedTable, list[str], str]:
    """Splits for the new pictures. Those of the earlier run stay where they were, their near-copies among the new ones go where
    they are, and a new file that is one of its files, byte for byte, is left out."""
    known = {row["sha256"] for row in run.splits()}
    samples = scanned.table.samples
    kept = [
        place
        for place, sample in enumerate(samples)
        if is_earlier(sample) or scanned.hashes[place] not in known
    ]
    fresh = [place for place in kept if not is_earlier(samples[place])]
    if not fresh:
        raise UsageError(
            "every picture of the new data belongs to the earlier run already",
            where=recipe.data.path,
        )
    table = scanned.table.with_samples(tuple(samples[place] for place in fresh))
    made, how = split_table(table, [groups[place] for place in fresh], recipe.data, recipe.seed)
    held: dict[str, Split] = {
        groups[place]: split
        for place in kept
        if is_earlier(samples[place]) and (split := samples[place].split) is not None
    }
    splits = {
        place: held.get(groups[place], sample.split)
        for place, sample in zip(fresh, made.samples, strict=True)
    }
    joined = tuple(
        replace(samples[place], split=splits.get(place, samples[place].split)) for place in kept
    )
    found = scanned.subset(kept, scanned.table.with_samples(joined))
    left_out = len(samples) - len(kept)
    known_already = (
        f"; {left_out} new files that the earlier run knows are left out" if left_out else ""
    )
    return (
        found,
        [groups[place] for place in kept],
        f"{how}; the earlier run's pictures stay where they were{known_already}",
    )


def old_and_new(samples: Sequence[Sample], run: Run) -> dict[str, list[int]]:
    """Places of the samples that are old and new: of the earlier run's classes and of new ones, or, where there are no new
    classes, of its pictures and of new ones."""
    classes = set(run.classes())
    named = [set(sample.target.names) for sample in samples if isinstance(sample.target, Labels)]
    grown = any(not names <= classes for names in named)
    old = (
        [names <= classes for names in named]
        if grown
        else [is_earlier(sample) for sample in samples]
    )
    both = {
        word: [place for place, is_old in enumerate(old) if is_old == (word == "old")]
        for word in ("old", "new")
    }
    return {word: places for word, places in both.items() if places}
