"""foveate continue."""

from foveate.api.continue_ import continue_
from foveate.cli.command import Command

COMMAND = Command(
    continue_,
    "foveate continue runs/photos-lora-1 new_photos --replay 0.2",
    recipe_options=("replay", "distill", "epochs", "minutes", "lr", "seed", "device"),
    defaults=dict.fromkeys(("epochs", "minutes", "lr", "seed", "device"), "as in RUN"),
)
