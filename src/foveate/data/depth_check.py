"""Images of more bits than those that a run learned from, or of fewer: said, or refused."""

from __future__ import annotations

from collections.abc import Sequence

from foveate.data.value_range import is_deep, measure_value_range, spread_samples
from foveate.errors import DataError
from foveate.images.pixels import Rendering
from foveate.messages import Message
from foveate.types import Sample

_LOOKED_AT = 1000  # images, evenly spread
_WHOLE_RANGES = (None, (0.0, 1.0), (0.0, 255.0))  # whose black and white are certain


def compare_depth(samples: Sequence[Sample], rendering: Rendering) -> list[Message]:
    """Say how many images have more bits, or fewer, than those that a run learned from.

    Args:
        samples: Images to predict for.
        rendering: How the run reads images: with more than 8 bits, or in a stated range, if its own
            images had more.

    Returns:
        One sentence, or none.

    Raises:
        DataError: Images have more than 8 bits on a scale that is not known, and the run does not
            tell it.
    """
    looked_at = spread_samples(samples, _LOOKED_AT)
    deep = [sample for sample in looked_at if is_deep(sample)]
    expects_deep = rendering.bits > 8 or rendering.value_range is not None
    if expects_deep and len(deep) < len(looked_at):
        text = (
            "{count:image has|images have} 8 bits, of {total} that were looked at, and the run "
            "learned from images of more: their 0 to 255 is read as black to white"
        )
        others = len(looked_at) - len(deep)
        return [Message("caution.fewer_bits", text, count=others, total=len(looked_at))]
    if expects_deep or not deep:
        return []
    measured = measure_value_range(deep, rendering)
    if measured not in _WHOLE_RANGES:
        low, high = measured or (0, 0)
        raise DataError(
            "how bright these images are would be a guess",
            where=deep[0].key,
            why=f"{len(deep)} of {len(looked_at)} have more than 8 bits, of which they use "
            f"{low:g} to {high:g}, and the run learned from images of 8 bits",
            hint="save them as images of 8 bits, as those of the run; or fit on images like them "
            f"with --set data.value_range=[{low:g},{high:g}]",
            id="unknown_value_range",
        )
    text = (
        "{count:image has|images have} more than 8 bits, of {total} that were looked at, and the "
        "run learned from images of 8 bits: the whole range is read as black to white"
    )
    return [Message("caution.more_bits", text, count=len(deep), total=len(looked_at))]
