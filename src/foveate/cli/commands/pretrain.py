"""foveate pretrain."""

from foveate.api.pretrain import pretrain
from foveate.cli.command import Command

COMMAND = Command(
    pretrain,
    "foveate pretrain images --backbone resnet18 --weights none",
    recipe_options=(
        "backbone",
        "weights",
        "size",
        "tuning",
        "epochs",
        "minutes",
        "batch_size",
        "lr",
        "allow_outside",
        "strict",
        "seed",
        "device",
    ),
    defaults={
        "tuning": "full from random weights, else explora",
        "epochs": "100 from random weights, else 20",
        "lr": "depends on the objective and the weights",
    },
)
