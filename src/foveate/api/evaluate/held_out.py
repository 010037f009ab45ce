"""Whether images were held out: what a run has learned from, and what was replaced since."""

from __future__ import annotations

import numpy as np

from foveate.data.duplicates import alike_any
from foveate.data.issues import quoted
from foveate.data.scan import ScannedTable
from foveate.errors import DataError
from foveate.messages import Message, counted
from foveate.run.appearance import appearance_of, read_appearance
from foveate.run.folder import Run
from foveate.utils import log

_THRESHOLD = 0.97  # correlation of thumbnails, as data.near_duplicates by default


def drop_changed(run: Run, scanned: ScannedTable) -> ScannedTable:
    """Leave out images of a run that are other pictures now, and warn of them.

    The run knows its images by their names. Nobody knows whether it has learned from a picture that
    came under one of these names later. The same picture in another encoding stays.

    Args:
        run: The run.
        scanned: Some of its images.

    Raises:
        DataError: All of them have changed.
    """
    rows = run.splits()
    index_of = {row["path"]: index for index, row in enumerate(rows)}
    own = [index_of[sample.key] for sample in scanned.table.samples]
    before, now = read_appearance(run, len(rows)), appearance_of(scanned)
    kept, changed = list[int](), list[int]()
    for index, number in enumerate(own):
        is_same = scanned.hashes[index] == rows[number]["sha256"]
        if not is_same and before is not None and now is not None:
            is_same = bool(alike_any(now[[index]], before[[number]], _THRESHOLD)[0])
        (kept if is_same else changed).append(index)
    if not changed:
        return scanned
    samples = scanned.table.samples
    names = quoted([samples[index].key for index in changed])
    if not kept:
        raise DataError(
            "the images of the run have been replaced by others since it was made",
            where=scanned.table.root,
            why=names,
            hint="give the data, to evaluate the run on new images",
        )
    verb = counted(len(changed), "image has", "images have")
    log.warning(f"{verb} been replaced since the run was made, and left out: {names}")
    return scanned.subset(kept, scanned.table.with_samples(tuple(samples[i] for i in kept)))


def overlap_cautions(run: Run, scanned: ScannedTable, own: bool) -> list[Message]:
    """Return whether a run has already learned from images.

    Args:
        run: The run.
        scanned: The images.
        own: Whether they are images of the run: of these no near-copies were trained on.
    """
    cautions, count = [], len(scanned.hashes)
    digests = {row["sha256"] for row in run.splits() if row["split"] == "train"}
    is_known = [digest in digests for digest in scanned.hashes]
    if overlap := sum(is_known):
        cautions.append(
            Message(
                "caution.trained_on",
                "{overlap} of these {count:image|images} took part in training (identical files): "
                "the score is optimistically biased",
                overlap=overlap,
                count=count,
            )
        )
    if copies := 0 if own else _count_copies(run, scanned, is_known):
        cautions.append(
            Message(
                "caution.copies_of_trained",
                "{copies} of these {count:image|images} look like training images that were saved "
                "again or resized: the score is optimistically biased",
                copies=copies,
                count=count,
            )
        )
    adapted = set(run.adaptation().get("sha256", []))
    if overlap := sum(digest in adapted for digest in scanned.hashes):
        cautions.append(
            Message(
                "caution.adapted_to",
                "the run was adapted to {overlap} of these {count:image|images}, without labels",
                overlap=overlap,
                count=count,
            )
        )
    return cautions


def _count_copies(run: Run, scanned: ScannedTable, is_known: list[bool]) -> int:
    """Number of images that look like a training image and are not the same file."""
    rows = run.splits()
    before, now = read_appearance(run, len(rows)), appearance_of(scanned)
    trained = [index for index, row in enumerate(rows) if row["split"] == "train"]
    if before is None or now is None or not trained:
        return 0
    alike = alike_any(now, before[trained], _THRESHOLD)
    return int((alike & ~np.array(is_known)).sum())
