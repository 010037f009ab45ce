"""Backbones that a pre-training has left in its run folder: --backbone runs/photos-lejepa-1."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from foveate.errors import UsageError
from foveate.modeling.backbones import Backbone, Family, ModelInfo, family_of
from foveate.modeling.weights import load_into, read_tensors
from foveate.run.folder import BACKBONE_FILE, Run


class RunFamily(Family):
    summary: ClassVar[str] = "run folders of foveate pretrain"

    def names(self) -> list[str]:
        return []

    def knows(self, name: str) -> bool:
        return (Path(name) / "recipe.yaml").is_file()

    def resolve_name(self, name: str) -> str:
        return str(Path(name).resolve())

    def info(self, name: str) -> ModelInfo:
        own = _opened(name).recipe().backbone
        return family_of(own.name).info(own.name)

    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> Backbone:
        run = _opened(name)
        own = run.recipe().backbone
        backbone = family_of(own.name).open(own.name, "none", size or own.size, drop_path)
        if weights == "none":
            return backbone
        if weights != "auto":
            hint = "leave --weights out: the run has its own"
            raise UsageError(
                f"--weights {weights} cannot be had for a run", where=run.folder, hint=hint
            )
        run.verify()
        load_into(backbone, read_tensors(run.folder / BACKBONE_FILE, verbatim=True), run.folder / BACKBONE_FILE)
        backbone.origin = f"run: {run.folder.resolve().name}, {run.outcome()['origin']}"
        return backbone


def _opened(name: str) -> Run:
    """A finished pre-training; raises UsageError and RunError for any other run."""
    run = Run.open(Path(name))
    run.outcome()
    if not run.is_pretraining:
        hint = "foveate continue RUN DATA goes on from a run that was fitted"
        raise UsageError("this run was fitted, not pre-trained", where=run.folder, hint=hint)
    return run
