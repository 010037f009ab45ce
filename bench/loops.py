"""The loops that others show for training a classifier on a folder of images, each as its own
library writes it.

    python bench/loops.py textbook FOLDER WEIGHTS [--epochs 2] [--threads 1] [--head]

The ways: textbook (torchvision: ImageFolder, Resize 256, CenterCrop 224, Adam), timm
(create_loader, create_optimizer_v2 and the steps of its train script), timm_fast (the same, told
--channels-last and --amp in bfloat16), transformers (Trainer) and fastai (vision_learner,
unfrozen). All have batches of 32 without workers, and a ResNet-18 that begins at the tensors of
WEIGHTS under a new classifier. FOLDER holds a folder per class. `--head`: the textbook loop with a
frozen backbone that is run again every epoch.

Prints one JSON object: seconds of each epoch by the clock and of the processor, the stages of the
textbook loop, and versions.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import transforms
from torchvision.datasets import ImageFolder

BATCH = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Clock:
    """Seconds of each epoch, by the clock and of the processor, and of the latter in the stages of
    all but the first.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self.stages: dict[str, float] = {}

    @contextmanager
    def epoch(self) -> Iterator[None]:
        self.begin()
        yield
        self.end()

    def begin(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def end(self) -> None:
        clock, processor = self._began
        self.epochs.append(
            {"seconds": time.perf_counter() - clock, "processor": time.process_time() - processor}
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        if self.epochs:  # the first epoch warms up
            self.stages[name] = self.stages.get(name, 0.0) + time.process_time() - start

    def fetched(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches; what they took to come is a stage."""
        waiting = iter(batches)
        while True:
            with self.stage("pictures"):
                batch = next(waiting, None)
            if batch is None:
                return
            yield batch


def network(weights: str, classes: int) -> nn.Module:
    import timm

    model = timm.create_model("resnet18", num_classes=classes)
    model.load_state_dict({**model.state_dict(), **load_file(weights)})
    return model


def folder(path: str, steps: list[Any]) -> ImageFolder:
    return ImageFolder(
        path, transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    )


def textbook(path: str, weights: str, epochs: int, clock: Clock, head: bool = False) -> None:
    data = folder(path, [transforms.Resize(256), transforms.CenterCrop(224)])
    batches = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)
    model = network(weights, len(data.classes))
    if head:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("fc."))
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(moving, lr=1e-3)
    model.train()
    for _ in range(epochs):
        with clock.epoch():
            hits = 0
            for images, labels in clock.fetched(batches):
                with clock.stage("forward"):
                    output = model(images)
                    loss = nn.functional.cross_entropy(output, labels)
                with clock.stage("backward"):
                    optimizer.zero_grad()
                    loss.backward()
                with clock.stage("step"):
                    optimizer.step()
                with clock.stage("metric"):
                    hits += (output.argmax(1) == labels).sum().item()


def timm_script(path: str, weights: str, epochs: int, clock: Clock, fast: bool = False) -> None:
    """The steps of timm's train.py: its pictures, its optimiser and schedule, a synchronised loss
    every step.
    """
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    data = create_dataset("", root=path, is_training=True)
    plain = {
        "use_prefetcher": False,
        "num_workers": 0,
        "device": torch.device("cpu"),
        "mean": MEAN,
        "std": STD,
    }
    batches = create_loader(
        data,
        (3, 224, 224),
        BATCH,
        is_training=True,
        color_jitter=0.4,
        interpolation="random",
        **plain,
    )
    layout = torch.channels_last if fast else torch.contiguous_format
    model = network(weights, len(data.reader.class_to_idx)).to(memory_format=layout)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    planned = {"num_epochs": epochs, "step_on_epochs": False, "updates_per_epoch": len(batches)}
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", **planned)
    model.train()
    updates = 0
    for _ in range(epochs):
        with clock.epoch():
            total = 0.0
            for images, labels in batches:
                with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                    loss = nn.functional.cross_entropy(
                        model(images.contiguous(memory_format=layout)), labels
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                updates += 1
                scheduler.step_update(num_updates=updates)
                total += loss.item()


class Answering(nn.Module):
    """A classifier as the Trainer wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(pixel_values)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def transformers_trainer(path: str, weights: str, epochs: int, clock: Clock) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Timed(TrainerCallback):
        def on_epoch_begin(self, *about: Any, **more: Any) -> None:
            clock.begin()

        def on_epoch_end(self, *about: Any, **more: Any) -> None:
            clock.end()

    def joined(items: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
        pictures, labels = zip(*items, strict=True)
        return {"pixel_values": torch.stack(pictures), "labels": torch.tensor(labels)}

    data = folder(path, [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()])
    said = {
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    said |= {"remove_unused_columns": False, "dataloader_num_workers": 0}
    asked = TrainingArguments(
        "unused", per_device_train_batch_size=BATCH, num_train_epochs=epochs, **said
    )
    model = Answering(network(weights, len(data.classes)))
    Trainer(model, asked, train_dataset=data, data_collator=joined, callbacks=[Timed()]).train()


def fastai_learner(path: str, weights: str, epochs: int, clock: Clock) -> None:
    from fastai.vision.all import Callback, ImageDataLoaders, Resize, resnet18, vision_learner

    class Timed(Callback):
        def before_train(self) -> None:
            clock.begin()

        def after_train(self) -> None:
            clock.end()

    said = {
        "valid_pct": 0.01,
        "seed": 0,
        "bs": BATCH,
        "num_workers": 0,
        "device": torch.device("cpu"),
    }
    learner = vision_learner(
        ImageDataLoaders.from_folder(path, item_tfms=Resize(224), **said),
        resnet18,
        pretrained=False,
    )
    body = learner.model[0].state_dict()
    known = [
        tensor
        for name, tensor in in_order(load_file(weights)).items()
        if not name.startswith("fc.")
    ]
    learner.model[0].load_state_dict(dict(zip(body, known, strict=True)))
    learner.unfreeze()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(epochs, cbs=[Timed()])


def in_order(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the network has them; a file sorts them by name."""
    from torchvision.models import resnet18

    return {name: tensors[name] for name in resnet18().state_dict() if name in tensors}


WAYS: dict[str, tuple[Callable[..., None], dict[str, bool], str]] = {
    "textbook": (textbook, {}, "torchvision"),
    "timm": (timm_script, {}, "timm"),
    "timm_fast": (timm_script, {"fast": True}, "timm"),
    "transformers": (transformers_trainer, {}, "transformers"),
    "fastai": (fastai_learner, {}, "fastai"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("folder")
    parser.add_argument("weights")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--head", action="store_true")
    said = parser.parse_args()
    loop, more, library = WAYS[said.way]
    if find_spec(library) is None:
        sys.exit(f"{library} is not installed in {sys.executable}: this row is left out")
    torch.set_num_threads(said.threads)
    torch.manual_seed(0)
    clock = Clock()
    loop(
        said.folder,
        said.weights,
        said.epochs,
        clock,
        **more,
        **({"head": True} if said.head else {}),
    )
    versions = {name: version(name) for name in dict.fromkeys(("torch", library))}
    print(json.dumps({"epochs": clock.epochs, "stages": clock.stages, "versions": versions}))


if __name__ == "__main__":
    main()
