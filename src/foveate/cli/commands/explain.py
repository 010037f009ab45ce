"""foveate explain."""

import click

from foveate.api.explain import explain
from foveate.cli.command import Command

COMMAND = Command(
    explain,
    "foveate explain runs/photos-probe-1 new_photos --method gradcam --method occlusion",
    flags={"methods": "--method", "texts": "--text"},
    types={"nearest": click.IntRange(min=0)},
    registries={"methods": "explainability.methods"},
)
