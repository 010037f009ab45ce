"""Images whose channels are files of their own, as in nnU-Net: CASE_0000.png, CASE_0001.png."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec

from foveate.data.stored_images import ChannelStack
from foveate.types import Sample

# what stands before the number of the channel, the number, the extension, and the part of a file
_NAME = re.compile(r"(.*)_(\d{4})(\.[^/#]*)(#[^/]*)?", re.DOTALL)


def stack_channels(samples: Iterable[Sample]) -> list[Sample]:
    """Return images whose channels are bands, each in place of its first channel.

    Where the numbers of a case do not run from 0000 on, or tifffile is not installed, its files
    stay images of their own.

    Args:
        samples: Images, of which the channels are samples of their own.
    """
    cases = dict[tuple[str, ...], dict[int, Sample]]()
    for sample in samples:
        match = _NAME.fullmatch(sample.key)
        name = (match[1], match[3], match[4] or "") if match else (sample.key,)
        cases.setdefault(name, {})[int(match[2]) if match else 0] = sample
    stacked = list[Sample]()
    for case in cases.values():
        numbers = sorted(case)
        if numbers == list(range(len(case))) and len(case) > 1 and find_spec("tifffile"):
            paths = tuple(case[number].path for number in numbers)
            stacked.append(replace(case[0], path=ChannelStack(paths)))
        else:
            stacked += case.values()
    return stacked
