"""Distances between two sets of images by features of a named network: KID and FID.

Letters: N, M images, D width of a feature. Another network gives other numbers: published ones use
Inception's features.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def kid(generated: Array, real: Array) -> float:
    """Return the kernel inception distance (Binkowski et al. 2018).

    The squared maximum mean discrepancy of a cubic kernel; unbiased, so that it may lie a little
    below 0.

    Args:
        generated: (N, D) features, N at least 2.
        real: (M, D) features, M at least 2.
    """
    kernels = [_kernel(each, each) for each in (generated, real)]
    within = [
        (kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)) for kernel in kernels
    ]
    return float(sum(within) - 2 * _kernel(generated, real).mean())


def _kernel(generated: Array, real: Array) -> Array:
    kernel: Array = (generated.astype(float) @ real.astype(float).T / generated.shape[1] + 1) ** 3
    return kernel


def kid_std(generated: Array, real: Array, seed: int = 0, rounds: int = 100) -> float:
    """Return the standard deviation of the KID.

    It is measured over random halves of both sets and divided by the root of two, as a half varies
    more.

    Args:
        generated: (N, D) features.
        real: (M, D) features.
        seed: Seed of the halves.
        rounds: Number of halves.
    """
    rng = np.random.default_rng(seed)
    halves = (
        [each[rng.permutation(len(each))[: max(2, len(each) // 2)]] for each in (generated, real)]
        for _ in range(rounds)
    )
    return float(np.std([kid(*pair) for pair in halves]) / 2**0.5)


def fid(generated: Array, real: Array) -> float:
    """Return the Fréchet inception distance (Heusel et al. 2017).

    The distance of two normal distributions with the means and covariances of the features. It is
    too high with few images: compare only sets of equal size.

    Args:
        generated: (N, D) features.
        real: (M, D) features.
    """
    means = [each.mean(0) for each in (generated, real)]
    one, other = (np.cov(each.astype(float), rowvar=False) for each in (generated, real))
    root = _matrix_root(one)
    cross = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(min=0)).sum()
    return float(np.square(means[0] - means[1]).sum() + np.trace(one) + np.trace(other) - 2 * cross)


def _matrix_root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    root: Array = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root
