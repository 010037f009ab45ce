"""Pretrained backbones of run folders: --backbone runs/photos-lejepa-1."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from foveate.errors import UsageError
from foveate.modeling.backbones import Backbone, Family, ModelInfo, family_of
from foveate.modeling.weights import load_into, read_run_tensors
from foveate.run.folder import BACKBONE_FILE, Run


class RunFamily(Family):
    """Backbones that `foveate pretrain` trained."""

    summary: ClassVar[str] = "run folders of foveate pretrain"

    def names(self) -> list[str]:
        return []

    def knows(self, name: str) -> bool:
        return (Path(name) / "recipe.yaml").is_file()

    def resolve_name(self, name: str) -> str:
        return str(Path(name).resolve())

    def info(self, name: str) -> ModelInfo:
        config = _open_pretraining(name).recipe().backbone
        return family_of(config.name).info(config.name)

    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> Backbone:
        run = _open_pretraining(name)
        config = run.recipe().backbone
        backbone = family_of(config.name).open(config.name, "none", size or config.size, drop_path)
        if weights == "none":
            return backbone
        if weights != "auto":
            raise UsageError(
                f"--weights {weights} does not apply to a run, which has its own weights",
                where=run.folder,
                hint="leave --weights out",
            )
        run.verify()
        tensors = read_run_tensors(run.folder, BACKBONE_FILE)
        load_into(backbone, tensors, run.folder / BACKBONE_FILE)
        backbone.origin = f"run: {run.folder.resolve().name}, {run.outcome()['origin']}"
        return backbone


def _open_pretraining(name: str) -> Run:
    """Open a finished pretraining run; raises UsageError or RunError for any other run."""
    run = Run.open(Path(name))
    run.outcome()
    if not run.is_pretraining:
        raise UsageError(
            "this run was fitted, not pretrained",
            where=run.folder,
            hint="foveate continue RUN DATA continues a fitted run",
        )
    return run
