"""Threads of the libraries that multiply matrices."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

# packages that load a library with threads of its own
_PACKAGES = frozenset({"numpy", "scipy.linalg", "sklearn", "torch"})


def one_thread() -> AbstractContextManager[Any]:
    """Limit BLAS and OpenMP to one thread: small products lose more to waiting than they gain.

    The libraries are looked up again only after another package was imported; a look-up takes
    3 ms, as long as a small problem.
    """
    controller = _controller(_PACKAGES.intersection(sys.modules))
    limited: AbstractContextManager[Any] = controller.limit(limits=1)
    return limited


@cache
def _controller(_packages: frozenset[str]) -> ThreadpoolController:
    return ThreadpoolController()
