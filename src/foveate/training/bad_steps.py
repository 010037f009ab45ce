"""Steps that were not taken because their loss or gradient was no finite number: what they saw, kept so that it can be seen again.

bad_steps/step-000000012/     tensors.safetensors: the weights that moved, what the tuning remembered, the batch
                              step.json: step, epoch, loss, gradient's norm, and the pictures' names
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from foveate.errors import RunError, UsageError
from foveate.modeling.model import Model
from foveate.modeling.weights import read_tensors
from foveate.run.folder import Run
from foveate.types import Batch
from foveate.utils.files import read_json, written_aside

FOLDER = "bad_steps"
_MOST = 3  # steps of a run: the first ones tell the most
_TENSORS, _ABOUT = "tensors.safetensors", "step.json"
_FIELDS = ("images", "views", "sizes", "indices")


@dataclass(frozen=True)
class Kept:
    """`weights`: those that moved, and `memory`, what the tuning remembered, as they were before the step."""

    about: dict[str, Any]
    batch: Batch
    weights: dict[str, Tensor]
    memory: dict[str, Tensor]


def keep(run: Run, model: Model, batch: Batch, about: dict[str, Any]) -> None:
    """Writes a step down, if it is one of the first of its run."""
    from safetensors.torch import save_file

    folder = run.folder / FOLDER
    if folder.is_dir() and len(list(folder.iterdir())) >= _MOST:
        return
    batch = batch.normalized()
    parts = {
        "weights": model.trained_tensors(),
        "memory": model.tuning.state(),
        "batch": {name: getattr(batch, name) for name in _FIELDS},
    }
    words: list[dict[str, Any]] = []
    for place, target in enumerate(batch.targets):
        parts[f"target-{place}"] = {
            name: value.as_subclass(Tensor)
            for name, value in target.items()
            if isinstance(value, Tensor)
        }
        words.append(
            {name: value for name, value in target.items() if not isinstance(value, Tensor)}
        )
    named = {
        f"{part}/{name}": tensor for part, those in parts.items() for name, tensor in those.items()
    }
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}
    with written_aside(
        folder / f"step-{about['step']:09d}", sum(tensor.nbytes for tensor in tensors.values())
    ) as aside:
        aside.mkdir()
        save_file(tensors, aside / _TENSORS)
        (aside / _ABOUT).write_text(
            json.dumps({**about, "targets": words}, ensure_ascii=False, indent=1), encoding="utf-8"
        )


def read(folder: Path) -> Kept:
    """What `keep` has written. Raises UsageError where there is none, RunError where it is damaged."""
    if not (folder / _ABOUT).is_file():
        raise UsageError(
            "there is no step here that was kept", where=folder, hint=f"RUN/{FOLDER}/step-N"
        )
    about, parts = dict(read_json(folder / _ABOUT)), dict[str, dict[str, Tensor]]()
    for name, tensor in read_tensors(folder / _TENSORS, verbatim=True).items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = tensor
    try:
        targets = [
            {**parts.get(f"target-{place}", {}), **words}
            for place, words in enumerate(about.pop("targets"))
        ]
        images, views, sizes, indices = (parts["batch"][name] for name in _FIELDS)
        return Kept(
            about,
            Batch(images, targets, views, sizes, indices),
            parts["weights"],
            parts.get("memory", {}),
        )
    except (KeyError, TypeError) as error:
        raise RunError("this step is damaged", where=folder, why=f"it lacks {error}") from None
