"""Foveate adapts large pretrained vision models to your own images, with honest evaluation.

The public functions have the names of the commands: foveate.fit(...), foveate.evaluate(...),
foveate.predict(...); foveate.continue_(...) carries an underscore because `continue` is a keyword.
foveate.load(run) opens a predictor that stays in memory.

Functions are imported when they are first used: `import foveate` imports no other library.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from foveate.version import __version__

if TYPE_CHECKING:
    from foveate.api.adapt import adapt
    from foveate.api.audit import audit
    from foveate.api.cache import cache
    from foveate.api.check import check
    from foveate.api.continue_ import continue_
    from foveate.api.convert import convert
    from foveate.api.demo import demo
    from foveate.api.episodes import episodes
    from foveate.api.evaluate import evaluate
    from foveate.api.explain import explain
    from foveate.api.export import export
    from foveate.api.fit import fit
    from foveate.api.generate import generate
    from foveate.api.load import load
    from foveate.api.models import models
    from foveate.api.predict import predict
    from foveate.api.pretrain import pretrain
    from foveate.api.restyle import restyle
    from foveate.api.retrieve import retrieve
    from foveate.api.runs import runs
    from foveate.api.soup import soup

# OpenMP's threads would spin while they wait for each other, which takes the cores from other
# programs: beside a busy one the same work takes about ten times as long. Read once, when torch is
# imported; a value that the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = [
    "__version__",
    "adapt",
    "audit",
    "cache",
    "check",
    "continue_",
    "convert",
    "demo",
    "episodes",
    "evaluate",
    "explain",
    "export",
    "fit",
    "generate",
    "load",
    "models",
    "predict",
    "pretrain",
    "restyle",
    "retrieve",
    "runs",
    "soup",
]


def __getattr__(name: str) -> Any:
    """Import a public function when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = getattr(importlib.import_module(f"foveate.api.{name}"), name)
    globals()[name] = function
    return function


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
