"""foveate adapt."""

from foveate.api.adapt import adapt
from foveate.cli.command import Command

COMMAND = Command(
    adapt,
    "foveate adapt runs/photos-full-1 other_camera",
    registries={"method": "training.test_time"},
)
