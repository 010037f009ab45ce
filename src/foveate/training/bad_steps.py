"""Steps that were skipped because their loss or gradient was not finite, saved for replay.

bad_steps/step-000000012/     tensors.safetensors: trained weights, state of the tuning, batch
                              step.json: step, epoch, loss, gradient norm, and the images' names
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from foveate.errors import RunError, UsageError
from foveate.modeling.model import Model
from foveate.modeling.weights import read_run_tensors
from foveate.types import Batch
from foveate.utils.files import atomic_write, read_json

FOLDER = "bad_steps"
_MAX_STEPS = 3  # steps of a run that are saved: the first ones tell the most
_TENSORS, _INFO = "tensors.safetensors", "step.json"
_BATCH_FIELDS = ("images", "views", "sizes", "indices")


@dataclass(frozen=True)
class BadStep:
    """A skipped step, and the state before it.

    Attributes:
        info: what step.json says, without the targets.
        batch: the images, on the CPU, before MixUp and CutMix.
        weights: the tensors that training changes.
        tuning_state: what `Tuning.state` returned.
    """

    info: dict[str, Any]
    batch: Batch
    weights: dict[str, Tensor]
    tuning_state: dict[str, Tensor]


def save_bad_step(run: Path, model: Model, batch: Batch, info: dict[str, Any]) -> None:
    """Save a step into a run folder, if it is one of the first three.

    Args:
        run: Run folder.
        model: The model, with the weights that the step began with.
        batch: The images of the step.
        info: JSON-able, with the number of the step as "step".
    """
    from safetensors.torch import save_file

    folder = run / FOLDER
    if folder.is_dir() and len(list(folder.iterdir())) >= _MAX_STEPS:
        return
    batch = batch.normalized()
    parts: dict[str, dict[str, Tensor]] = {
        "weights": model.trained_tensors(),
        "tuning": model.tuning.state(),
        "batch": {name: getattr(batch, name) for name in _BATCH_FIELDS},
    }
    plain_targets: list[dict[str, Any]] = []
    for index, target in enumerate(batch.targets):
        tensors = {name: each for name, each in target.items() if isinstance(each, Tensor)}
        parts[f"target-{index}"] = {k: each.as_subclass(Tensor) for k, each in tensors.items()}
        plain_targets.append({name: target[name] for name in target.keys() - tensors.keys()})
    flat = {
        f"{part}/{name}": tensor.detach().cpu().contiguous().clone()
        for part, named in parts.items()
        for name, tensor in named.items()
    }
    text = json.dumps({**info, "targets": plain_targets}, ensure_ascii=False, indent=1)
    size = sum(tensor.nbytes for tensor in flat.values())
    with atomic_write(folder / f"step-{info['step']:09d}", size) as unfinished:
        unfinished.mkdir()
        save_file(flat, unfinished / _TENSORS)
        (unfinished / _INFO).write_text(text, encoding="utf-8")


def load_bad_step(folder: Path) -> BadStep:
    """Read a saved step.

    Args:
        folder: RUN/bad_steps/step-N.

    Raises:
        UsageError: There is no saved step in this folder.
        RunError: Its files are damaged.
    """
    if not (folder / _INFO).is_file():
        hint = f"name a folder RUN/{FOLDER}/step-N"
        raise UsageError("there is no saved step in this folder", where=folder, hint=hint)
    info = dict(read_json(folder / _INFO))
    parts: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in read_run_tensors(folder, _TENSORS).items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    try:
        targets = [
            {**parts[f"target-{index}"], **plain} for index, plain in enumerate(info.pop("targets"))
        ]
        images, views, sizes, indices = (parts["batch"][name] for name in _BATCH_FIELDS)
        batch = Batch(images, targets, views, sizes, indices)
        return BadStep(info, batch, parts["weights"], parts["tuning"])
    except (KeyError, TypeError) as error:
        why = f"{error} is missing"
        raise RunError("this saved step is damaged", where=folder, why=why) from None
