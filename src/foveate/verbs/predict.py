"""predict RUN IMAGES: an answer for each picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from foveate import console, images
from foveate.errors import UsageError, near_names
from foveate.predictor import Answer, load


def predict(
    run: Path, images: Iterable[Path], device: str = "auto", strict: bool = False, batch_size: int = 32
) -> Iterator[Answer]:
    """Answers for files and for all pictures in folders, in order, as they come.

    Raises UsageError for a path that is not there, before the first answer.
    """
    paths = list(pictures_at(images))
    predictor = load(run, device)
    console.say(f"{len(paths)} images, {len(predictor.classes)} classes")
    return predictor.predict(paths, strict=strict, batch_size=batch_size)


def pictures_at(places: Iterable[Path]) -> Iterator[Path]:
    """Files as they are named, folders with all pictures in them. Raises UsageError for a path that is not there, and for a folder
    without pictures."""
    for place in places:
        if place.is_dir():
            found = list(images.find_images(place))
            if not found:
                raise UsageError("there are no pictures in this folder", where=place)
            yield from found
        elif place.exists():
            yield place
        else:
            near = near_names(place.name, [entry.name for entry in place.parent.iterdir()]) if place.parent.is_dir() else []
            hint = f"did you mean {str(place.parent / near[0])!r}?" if near else "give pictures or folders of pictures"
            raise UsageError("there is nothing at this path", where=place, hint=hint)
