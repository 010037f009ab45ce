"""The data of a recipe, read, reported and checked before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from foveate.data.class_merging import read_recipe_table
from foveate.data.formats import FORMATS
from foveate.data.tables import count_labels, label_names
from foveate.errors import DataError, UsageError
from foveate.messages import Message
from foveate.modeling.tasks import TASKS
from foveate.predictions import Boxes, Labels, Number
from foveate.recipe import Recipe
from foveate.run.lineage import add_earlier_samples
from foveate.types import Table
from foveate.utils import log


def read_data(recipe: Recipe, allow_no_images: bool = False) -> Table:
    """Read the data that a recipe names, and log what they are.

    Args:
        recipe: The recipe. If it continues a run, images of that run are added.
        allow_no_images: Whether class names without any image will do.

    Raises:
        UsageError: The recipe names no data.
        DataError: The data cannot be read, or hold no images.
    """
    if not recipe.data.path:
        raise UsageError("no data were given", hint="foveate fit FOLDER")
    task = recipe.task.name
    accepted = () if task == "auto" else TASKS.get(task).accepted_targets()
    table = read_recipe_table(recipe, accepted)
    log.info(
        Message(
            "training.data",
            "data: {path}, read as {format}: {images:image|images}, {labels}",
            path=recipe.data.path,
            format=FORMATS.get(table.format).summary,
            images=len(table.samples),
            labels=count_labels(table),
        )
    )
    for note in table.notes:
        log.warning(note)
    _log_boxes_per_class(table)
    if not (table.samples or allow_no_images):
        what = "the data lists class names but no images"
        hint = "give images, or use --tuning zeroshot, which needs none"
        raise DataError(what, where=recipe.data.path, hint=hint)
    return add_earlier_samples(table, recipe)


def _log_boxes_per_class(table: Table) -> None:
    boxes: Counter[str] = Counter()
    images: Counter[str] = Counter()
    for sample in table.samples:
        if isinstance(sample.target, Boxes):
            boxes.update(sample.target.names)
            images.update(set(sample.target.names))
    if boxes:
        rows = [[name, str(boxes[name]), str(images[name])] for name in table.classes]
        log.table(["class", "boxes", "images"], rows)


def check_trainable_classes(table: Table, task: str, known: Collection[str] = ()) -> None:
    """Check that there is something to learn; warn about classes without training images.

    Args:
        table: Data with splits.
        task: Name of the task.
        known: Classes that an earlier run has learned already.

    Raises:
        DataError: There is nothing to tell apart: fewer than two classes of images or different
            numbers, or no class of boxes.
    """
    kind = TASKS.get(task).prediction_type
    if kind is Number and table.samples:
        _check_numbers(table)
    if not table.samples or kind not in (Labels, Boxes):
        return
    in_training = {name for sample in table.in_split("train") for name in label_names(sample)}
    learned = in_training | set(known)
    needed = 1 if isinstance(table.samples[0].target, Boxes) else 2
    if len(learned) < needed and not table.multilabel:
        what = "there are no training images"
        if learned:
            what = f"only one class has training images: {next(iter(learned))!r}"
        raise DataError(what, where=table.root, hint="add images of another class")
    for name in sorted(set(table.classes) - learned):
        log.warning(f"class {name!r} has no training images and can never be predicted")


def _check_numbers(table: Table) -> None:
    targets = [sample.target for sample in table.in_split("train")]
    numbers = {target.value for target in targets if isinstance(target, Number)}
    if len(numbers) < 2:
        what = "there are no training images"
        if numbers:
            what = f"all training images have the same number: {next(iter(numbers)):g}"
        raise DataError(what, where=table.root, hint="add images with other numbers")
