"""Whether a dataset that was written and read again is the same, and what it lost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from foveate.data.boxes import labeled_points, without_padding
from foveate.data.formats import describe_sample
from foveate.data.tools import BACKGROUND, cropped
from foveate.errors import DataError
from foveate.images.codec import content_hash
from foveate.predictions import IGNORE_INDEX, Boxes, Labels, Number, Regions, Text
from foveate.types import Issue, Sample, Table, remark
from foveate.utils.paths import printable
from foveate.utils.rle import decode_rle

_PIXELS, _RELATIVE = 0.01, 1e-6  # by which corners may differ: YOLO writes fractions
_MAX_NAMES = 5  # classes in a message

Losses = Counter[str]
"""How much of what was lost."""


def compare_tables(before: Table, after: Table, out: Path) -> tuple[Issue, ...]:
    """Return what of a dataset is lost in another format.

    Args:
        before: The dataset.
        after: What was written, read again. Images are recognized by their content.
        out: The new folder, for messages.

    Raises:
        DataError: An image is missing, or has other labels, another split or another group.
    """
    losses = Losses()
    for one, other, lost in _pairs(before, after, out):
        if lost is None:
            raise _differs(out, f"{_describe(one)}, and would be read again as {_describe(other)}")
        losses += lost
    return (*_sample_notes(losses), *_table_notes(before, after, out))


def _pairs(
    before: Table, after: Table, out: Path
) -> Iterator[tuple[Sample, Sample, Losses | None]]:
    """Yield each image with its copy, and what that lost, as `_lost_of_sample`.

    Of the copies of equal files, it is one with the same labels, in the same place if possible.
    """
    copies: dict[str, list[Sample]] = defaultdict(list)
    for sample in after.samples:
        copies[content_hash(sample.source)].append(sample)
    if len(before.samples) != len(after.samples):
        why = f"there are {len(before.samples)} images, and {len(after.samples)} would be read"
        raise _differs(out, why)
    for sample in before.samples:
        own = copies[content_hash(sample.source)]
        if not own:
            raise _differs(out, f"the image {sample.key!r} would not be read")
        compared = (
            (index, _lost_of_sample(sample, own[index], before, after))
            for index in _nearest_first(sample, own)
        )
        index, lost = next((each for each in compared if each[1] is not None), (0, None))
        yield sample, own.pop(index), lost


def _nearest_first(sample: Sample, copies: list[Sample]) -> Iterator[int]:
    """Yield the indices of copies, those with the same split and group first."""
    others = [(each.split != sample.split) + (each.group != sample.group) for each in copies]
    for different in sorted(set(others)):
        yield from (index for index, each in enumerate(others) if each == different)


def _lost_of_sample(one: Sample, other: Sample, before: Table, after: Table) -> Losses | None:
    """What an image lost; None if it is not the same any more."""
    if one.split and other.split not in (one.split, None):
        return None
    if one.group and other.group not in (one.group, None):
        return None
    lost = _lost_of_target(one.target, other.target, before, after)
    if lost is None:
        return None
    if one.split != other.split:
        lost["splits" if one.split else f"unsplit {other.split}"] += 1
    if one.group != other.group:
        lost["groups" if one.group else "grouped"] += 1
    return lost


def _lost_of_target(one: object, other: object, before: Table, after: Table) -> Losses | None:
    match one, other:
        case Boxes(), Boxes():
            return _lost_of_boxes(one, other)
        case Regions(), Regions():
            return _lost_of_regions(one.mask, other.mask, before, after)
        case Labels(), Labels():
            return Losses() if set(one.names) == set(other.names) else None
        case Number(), Number():
            return Losses() if one.value == other.value else None
        case Text(), Text():
            return Losses() if one.sentences == other.sentences else None
    return None


def _lost_of_boxes(one: Boxes, other: Boxes) -> Losses | None:
    if one.names != other.names or not _have_same_masks(one, other):
        return None
    lost, count = Losses(), len(one.names)
    moved = ~np.isclose(one.xyxy, other.xyxy, rtol=_RELATIVE, atol=_PIXELS).all(axis=1)
    if moved.any() and not _are_around_masks(other):
        return None
    crowd, crowd_after = (
        np.zeros(count, dtype=bool) if each.crowd is None else each.crowd for each in (one, other)
    )
    if (crowd_after & ~crowd).any():
        return None
    lost["boxes"] = int(moved.sum())
    lost["crowds"] = int((crowd & ~crowd_after).sum())
    lost["masks"] = len(one.masks or ()) - len(other.masks or ())
    if other.keypoints is None:
        lost["keypoints"] = sum(map(bool, map(labeled_points, one.keypoints or ())))
    elif not _have_same_points(one, other):
        return None
    return +lost


def _have_same_masks(one: Boxes, other: Boxes) -> bool:
    """Whether the masks are the same, or there are none any more."""
    if not other.masks:
        return True
    return one.masks is not None and all(
        mask == again or np.array_equal(decode_rle(mask), decode_rle(again))
        for mask, again in zip(one.masks, other.masks, strict=True)
    )


def _are_around_masks(boxes: Boxes) -> bool:
    """Whether all boxes are those around their masks, which some tools do not state."""
    parts = [cropped(mask) for mask in boxes.masks or ()]
    around = [
        (left, top, left + part[0].shape[1], top + part[0].shape[0])
        for part in parts
        if part is not None
        for top, left in [part[1:]]
    ]
    return len(around) == len(boxes.names) and np.allclose(around, boxes.xyxy, atol=_PIXELS)


def _have_same_points(one: Boxes, other: Boxes) -> bool:
    """Whether the keypoints are the same, but for some at the end that are not labeled."""
    none = [np.zeros((0, 3), dtype=np.float32)] * len(one.names)
    for points, again in zip(one.keypoints or none, other.keypoints or none, strict=True):
        points, again = without_padding(points), without_padding(again)
        if points.shape != again.shape or not np.array_equal(points[:, 2], again[:, 2]):
            return False
        if not np.allclose(points, again, rtol=_RELATIVE, atol=_PIXELS):
            return False
    return True


def _lost_of_regions(
    mask: np.ndarray, again: np.ndarray, before: Table, after: Table
) -> Losses | None:
    if mask.shape != again.shape:
        return None
    # index of each class in the data before; the last one is that of ignored pixels
    indices = {name: index for index, name in enumerate(before.classes)}
    missing = len(indices)  # of no class of these
    mapped = np.array([*(indices.get(name, missing) for name in after.classes), IGNORE_INDEX])
    different = mapped[again] != mask
    ignored = different & (mask == IGNORE_INDEX)
    if (different & ~ignored).any():
        return None
    return +Losses(ignored=int(ignored.any()))


# --- what was lost, as notes


def _sample_notes(losses: Losses) -> Iterator[Issue]:
    if count := losses["crowds"]:
        text = "{count:crowd box|crowd boxes}, which the format does not support: {outcome}"
        outcome = "kept as ordinary boxes"
        yield remark("crowds_unsupported", text, "warning", count=count, outcome=outcome)
    if count := losses["groups"]:
        text = "{count:image|images} with a group, which the format does not support: lost"
        yield remark("groups_unsupported", text, "warning", count=count)
    if count := losses["grouped"]:
        text = "{count:image|images} without a group, which get one by their names in the format"
        yield remark("grouped_by_format", text, count=count)
    if count := losses["splits"]:
        text = "{count:image|images} with a split, which the format does not support: lost"
        yield remark("splits_unsupported", text, "warning", count=count)
    for split in ("train", "val", "test"):
        if count := losses[f"unsplit {split}"]:
            text = (
                "{count:image|images} without a split, which the format does not support: {outcome}"
            )
            outcome = f"listed under {split}"
            yield remark("unsplit_unsupported", text, count=count, outcome=outcome)
    if count := losses["boxes"]:
        text = "{count:box|boxes} of objects with masks became those around the masks"
        yield remark("boxes_around_masks", text, count=count)
    if count := losses["masks"]:
        text = "{count:mask|masks} of objects not written: in this format Foveate writes boxes only"
        yield remark("masks_unsupported", text, "warning", count=count)
    if count := losses["keypoints"]:
        text = "keypoints of {count:object|objects}, which the format does not support: lost"
        yield remark("keypoints_unsupported", text, "warning", count=count)
    if count := losses["ignored"]:
        text = (
            "ignored pixels in {count:image|images}, which the format does not support: they became"
            " {background}"
        )
        yield remark("ignored_unsupported", text, "warning", count=count, background=BACKGROUND)


def _table_notes(before: Table, after: Table, out: Path) -> Iterator[Issue]:
    """What was lost of the classes, and of the description of keypoints."""
    added = [name for name in after.classes if name not in before.classes]
    if added and (added != [BACKGROUND] or not _are_regions(before)):
        raise _differs(out, f"there would be more classes: {_listed(added)}")
    if added:
        text = "the class {background} is added: the format has it in any case"
        yield remark("background_added", text, background=BACKGROUND)
    gone = [name for name in before.classes if name not in after.classes]
    if gone:
        text = (
            "{count:class|classes} without an example, which the format does not support: {names}"
        )
        yield remark("unused_classes", text, count=len(gone), names=_listed(gone))
    kept = [name for name in after.classes if name in before.classes]
    if kept != [name for name in before.classes if name in after.classes]:
        text = "the order of the classes is lost; it would now be {names}"
        yield remark("class_order_unsupported", text, names=_listed(kept))
    if before.multilabel and not after.multilabel:
        text = "every image has one class: they are read as data with one class for each image"
        yield remark("multilabel_unsupported", text)
    yield from _skeleton_notes(before, after)


def _skeleton_notes(before: Table, after: Table) -> Iterator[Issue]:
    if not any(isinstance(each.target, Boxes) and each.target.keypoints for each in after.samples):
        return
    again = {each.class_name: each for each in after.skeletons}
    lost = dict.fromkeys(
        what
        for each in before.skeletons
        for what in ("names", "edges", "mirrored")
        if getattr(each, what)
        and getattr(again.get(each.class_name), what, ()) != getattr(each, what)
    )
    words = {
        "names": "their names",
        "edges": "the lines between them",
        "mirrored": "which becomes which in a mirrored image",
    }
    if lost:
        text = "what is lost about the keypoints: {what}"
        what = ", ".join(words[each] for each in lost)
        yield remark("skeletons_unsupported", text, what=what)


def _are_regions(table: Table) -> bool:
    return any(isinstance(sample.target, Regions) for sample in table.samples)


def _listed(names: list[str]) -> str:
    more = ", ..." if len(names) > _MAX_NAMES else ""
    return ", ".join(map(repr, names[:_MAX_NAMES])) + more


def _describe(sample: Sample) -> str:
    places = [sample.split or "no split", f"group {sample.group}" if sample.group else ""]
    return f"{describe_sample(sample)} ({', '.join(filter(None, places))})"


def _differs(out: Path, why: str) -> DataError:
    return DataError(
        "the new data would not be the same, so nothing was kept",
        where=printable(out),
        why=why,
        hint="choose another format with --to",
    )
