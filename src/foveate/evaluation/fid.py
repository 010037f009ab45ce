"""How far one set of pictures is from another, by features of a network that is named: KID and FID.

Letters: N, M pictures, D width of a feature. The numbers of another network are other numbers: published ones are of Inception's.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def kid(ours: Array, theirs: Array) -> float:
    """(N, D), (M, D) -> the kernel distance (Binkowski et al. 2018): the squared maximum mean discrepancy of a cubic kernel,
    unbiased, so that it may lie a little below 0. N and M are at least 2."""
    inner = [_kernel(each, each) for each in (ours, theirs)]
    within = [
        (kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)) for kernel in inner
    ]
    return float(sum(within) - 2 * _kernel(ours, theirs).mean())


def _kernel(ours: Array, theirs: Array) -> Array:
    found: Array = (ours.astype(float) @ theirs.astype(float).T / ours.shape[1] + 1) ** 3
    return found


def kid_std(ours: Array, theirs: Array, seed: int = 0, rounds: int = 100) -> float:
    """The standard deviation of the kernel distance over random halves of both sets, by the root of two, as a half varies more."""
    rng = np.random.default_rng(seed)
    halves = (
        [each[rng.permutation(len(each))[: max(2, len(each) // 2)]] for each in (ours, theirs)]
        for _ in range(rounds)
    )
    return float(np.std([kid(*pair) for pair in halves]) / 2**0.5)


def fid(ours: Array, theirs: Array) -> float:
    """(N, D), (M, D) -> the Frechet distance of two normal distributions with the means and covariances of the features (Heusel et
    al. 2017). It is too high with few pictures: compare those of equal numbers alone."""
    means = [each.mean(0) for each in (ours, theirs)]
    one, other = (np.cov(each.astype(float), rowvar=False) for each in (ours, theirs))
    root = _root(one)
    between = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(min=0)).sum()
    return float(
        np.square(means[0] - means[1]).sum() + np.trace(one) + np.trace(other) - 2 * between
    )


def _root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    found: Array = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return found
