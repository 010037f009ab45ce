"""Beam search with NumPy only, by the rules of `generate` in the transformers library.

Its length penalty is 1 and early stopping is off.

Letters: b beams, T token ids so far, V size of the vocabulary.
"""

from collections.abc import Callable, Sequence

import numpy as np

NextLogProbs = Callable[[np.ndarray], np.ndarray]
"""(b, T) int64 token ids -> (b, V) log-probabilities of the next id"""


def generate(
    next_log_probs: NextLogProbs,
    *,
    prompt_ids: Sequence[int],
    end: int,
    suppressed: Sequence[int],
    max_tokens: int,
    beams: int,
) -> tuple[list[int], float]:
    """Generate one sentence.

    Args:
        next_log_probs: The language model.
        prompt_ids: Ids that begin every sentence; they are not returned.
        end: Id that ends a sentence.
        suppressed: Ids that are never generated.
        max_tokens: Greatest number of ids.
        beams: Number of beams; 1 is greedy.

    Returns:
        The ids without `end`, and the geometric mean of their probabilities and that of `end`.
    """
    search = _greedy if beams == 1 else _beam_search
    ids, log_probs = search(next_log_probs, prompt_ids, end, suppressed, max_tokens, beams)
    kept = ids[: ids.index(end)] if end in ids else ids
    return kept, float(np.exp(np.clip(log_probs[: len(kept) + 1], -50, None).mean()))


def _greedy(
    next_log_probs: NextLogProbs,
    prompt_ids: Sequence[int],
    end: int,
    suppressed: Sequence[int],
    max_tokens: int,
    beams: int,
) -> tuple[list[int], list[float]]:
    ids, log_probs = list[int](), list[float]()
    while len(ids) < max_tokens and end not in ids:
        scores, normalized = _step(next_log_probs, [[*prompt_ids, *ids]], suppressed)
        ids.append(int(scores[0].argmax()))
        log_probs.append(float(normalized[0, ids[-1]]))
    return ids, log_probs


def _beam_search(
    next_log_probs: NextLogProbs,
    prompt_ids: Sequence[int],
    end: int,
    suppressed: Sequence[int],
    max_tokens: int,
    beams: int,
) -> tuple[list[int], list[float]]:
    # running: (sum of scores, ids, normalized log-probabilities); finished: the mean of the scores
    # takes the place of their sum
    running: list[tuple[float, list[int], list[float]]] = [(0.0, [], [])]
    finished: list[tuple[float, list[int], list[float]]] = []
    for length in range(1, max_tokens + 1):
        scores, normalized = _step(
            next_log_probs, [[*prompt_ids, *ids] for _, ids, _ in running], suppressed
        )
        sums = scores + np.array([total for total, _, _ in running])[:, None]
        best = np.argsort(-sums, axis=None, kind="stable")[: 2 * beams]
        extended = [
            (
                float(sums[beam, id]),
                [*running[beam][1], int(id)],
                [*running[beam][2], float(normalized[beam, id])],
            )
            for beam, id in zip(*np.unravel_index(best, sums.shape), strict=True)
        ]
        ended = [each for each in extended[:beams] if each[1][-1] == end or length == max_tokens]
        finished += [(total / length, ids, log_probs) for total, ids, log_probs in ended]
        finished = sorted(finished, key=lambda each: -each[0])[:beams]
        running = [each for each in extended if each[1][-1] != end][:beams]
        if not running or (len(finished) == beams and running[0][0] / length <= finished[-1][0]):
            break
    return finished[0][1], finished[0][2]


def _step(
    next_log_probs: NextLogProbs, sentences: list[list[int]], suppressed: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (b, V) log-probabilities without suppressed ids, and the same normalized again."""
    scores = next_log_probs(np.array(sentences, np.int64)).astype(np.float32)
    scores[:, list(suppressed)] = -np.inf
    highest = scores.max(1, keepdims=True)
    return scores, scores - (np.log(np.exp(scores - highest).sum(1, keepdims=True)) + highest)
