"""Beam search, with NumPy alone, by the rules of the transformers library's `generate` (length penalty 1, early stopping off).

Letters: b beams, T numbers so far, V numbers of the vocabulary.
"""

from collections.abc import Callable, Sequence

import numpy as np


def written(
    logs: Callable[[np.ndarray], np.ndarray],
    *,
    opening: Sequence[int],
    end: int,
    banned: Sequence[int],
    most: int,
    beams: int,
) -> tuple[list[int], float]:
    """The numbers of a sentence, without its end, and the geometric mean of their probabilities, its end's included.

    `logs`: (b, T) int64 -> (b, V), log probabilities of the next number. A sentence begins with `opening`, which is no part of the
    answer, has at most `most` numbers and none of those that are `banned`.
    """
    found, chances = (
        _greedy(logs, opening, end, banned, most)
        if beams == 1
        else _searched(logs, opening, end, banned, most, beams)
    )
    numbers = found[: found.index(end)] if end in found else found
    return numbers, float(np.exp(np.clip(chances[: len(numbers) + 1], -50, None).mean()))


def _greedy(
    logs: Callable[[np.ndarray], np.ndarray],
    opening: Sequence[int],
    end: int,
    banned: Sequence[int],
    most: int,
) -> tuple[list[int], list[float]]:
    found, chances = list[int](), list[float]()
    while len(found) < most and end not in found:
        told, normal = _next(logs, [[*opening, *found]], banned)
        found.append(int(told[0].argmax()))
        chances.append(float(normal[0, found[-1]]))
    return found, chances


def _searched(
    logs: Callable[[np.ndarray], np.ndarray],
    opening: Sequence[int],
    end: int,
    banned: Sequence[int],
    most: int,
    beams: int,
) -> tuple[list[int], list[float]]:
    """Running sentences are (sum of logs, numbers, their renormalised logs); finished ones come with the mean of their logs."""
    running: list[tuple[float, list[int], list[float]]] = [(0.0, [], [])]
    finished: list[tuple[float, list[int], list[float]]] = []
    for length in range(1, most + 1):
        told, normal = _next(logs, [[*opening, *numbers] for _, numbers, _ in running], banned)
        sums = told + np.array([total for total, _, _ in running])[:, None]
        order = np.argsort(-sums, axis=None, kind="stable")[: 2 * beams]
        places = list(zip(*np.unravel_index(order, sums.shape), strict=True))
        grown = [
            (
                float(sums[beam, number]),
                [*running[beam][1], int(number)],
                [*running[beam][2], float(normal[beam, number])],
            )
            for beam, number in places
        ]
        ended = [each for each in grown[:beams] if each[1][-1] == end or length == most]
        finished += [(total / length, numbers, chances) for total, numbers, chances in ended]
        finished = sorted(finished, key=lambda each: -each[0])[:beams]
        running = [each for each in grown if each[1][-1] != end][:beams]
        if not running or (len(finished) == beams and running[0][0] / length <= finished[-1][0]):
            break
    return finished[0][1], finished[0][2]


def _next(
    logs: Callable[[np.ndarray], np.ndarray], sentences: list[list[int]], banned: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """(b, V) logs without those that are banned, and the same with probabilities that add up to 1 again."""
    told = logs(np.array(sentences, np.int64)).astype(np.float32)
    told[:, list(banned)] = -np.inf
    rest = np.log(np.exp(told - told.max(1, keepdims=True)).sum(1, keepdims=True)) + told.max(
        1, keepdims=True
    )
    return told, told - rest
