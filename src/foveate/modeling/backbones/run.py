"""Backbones that a pre-training has left in its run folder: --backbone runs/photos-lejepa-1."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from foveate.errors import UsageError
from foveate.modeling.backbones import Backbone, Card, Family, family_of
from foveate.modeling.weights import fill, read_tensors
from foveate.run.folder import BACKBONE, Run


class RunFamily(Family):
    summary: ClassVar[str] = "run folders of foveate pretrain"

    def names(self) -> list[str]:
        return []

    def knows(self, name: str) -> bool:
        return (Path(name) / "recipe.yaml").is_file()

    def settled(self, name: str) -> str:
        return str(Path(name).resolve())

    def card(self, name: str) -> Card:
        own = _opened(name).recipe().backbone
        return family_of(own.name).card(own.name)

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
        run.check()
        fill(backbone, read_tensors(run.folder / BACKBONE, own=True), run.folder / BACKBONE)
        backbone.origin = f"run: {run.folder.resolve().name}, {run.outcome()['origin']}"
        return backbone


def _opened(name: str) -> Run:
    """A finished pre-training; raises UsageError and RunError for any other run."""
    run = Run.open(Path(name))
    run.outcome()
    if not run.pretrained:
        hint = "foveate continue RUN DATA goes on from a run that was fitted"
        raise UsageError("this run was fitted, not pre-trained", where=run.folder, hint=hint)
    return run
