"""Training loops of other libraries for a folder of images, each as its documentation shows it.

    python bench/loops.py textbook FOLDER WEIGHTS [--epochs 2] [--threads 1] [--head]

textbook      torchvision: ImageFolder, Resize 256, CenterCrop 224, Adam
timm          create_loader, create_optimizer_v2 and the steps of its train script
timm_fast     the same with --channels-last and --amp in bfloat16
transformers  Trainer
fastai        vision_learner, unfrozen

All use batches of 32 without worker processes, and a ResNet-18 that starts from the tensors of
WEIGHTS under a new classifier. FOLDER has a folder per class. `--head`: the textbook loop with a
frozen backbone, which is run again in every epoch. Used by bench/peers.py.

Prints a JSON object: wall-clock and CPU seconds of each epoch, the stages of the textbook loop, and
versions.
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
    """Wall-clock and CPU seconds of each epoch; CPU seconds of the stages after the first epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self.stages: dict[str, float] = {}

    @contextmanager
    def epoch(self) -> Iterator[None]:
        self.begin()
        yield
        self.end()

    def begin(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def end(self) -> None:
        wall, cpu = self._start
        self.epochs.append(
            {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        if self.epochs:  # the first epoch warms up
            self.stages[name] = self.stages.get(name, 0.0) + time.process_time() - start

    def timed_batches(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches; the time to load them is a stage."""
        iterator = iter(batches)
        while True:
            with self.stage("images"):
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch


def create_network(weights: str, classes: int) -> nn.Module:
    import timm

    model = timm.create_model("resnet18", num_classes=classes)
    model.load_state_dict({**model.state_dict(), **load_file(weights)})
    return model


def image_folder(path: str, steps: list[Any]) -> ImageFolder:
    return ImageFolder(
        path, transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    )


def textbook(path: str, weights: str, epochs: int, clock: Clock, head: bool = False) -> None:
    data = image_folder(path, [transforms.Resize(256), transforms.CenterCrop(224)])
    batches = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)
    model = create_network(weights, len(data.classes))
    if head:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("fc."))
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=1e-3)
    model.train()
    for _ in range(epochs):
        with clock.epoch():
            hits = 0
            for images, labels in clock.timed_batches(batches):
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
    """The steps of timm's train.py: its transforms, optimizer and schedule; a synchronized loss."""
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    data = create_dataset("", root=path, is_training=True)
    options = {
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
        **options,
    )
    layout = torch.channels_last if fast else torch.contiguous_format
    model = create_network(weights, len(data.reader.class_to_idx)).to(memory_format=layout)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    schedule = {"num_epochs": epochs, "step_on_epochs": False, "updates_per_epoch": len(batches)}
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", **schedule)
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


class TrainerModel(nn.Module):
    """A classifier with the interface that the Trainer expects."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(pixel_values)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def transformers_trainer(path: str, weights: str, epochs: int, clock: Clock) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Timed(TrainerCallback):
        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.begin()

        def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
            clock.end()

    def collate(items: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
        images, labels = zip(*items, strict=True)
        return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}

    data = image_folder(
        path, [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    )
    options = {
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    options |= {"remove_unused_columns": False, "dataloader_num_workers": 0}
    arguments = TrainingArguments(
        "unused", per_device_train_batch_size=BATCH, num_train_epochs=epochs, **options
    )
    model = TrainerModel(create_network(weights, len(data.classes)))
    Trainer(
        model, arguments, train_dataset=data, data_collator=collate, callbacks=[Timed()]
    ).train()


def fastai_learner(path: str, weights: str, epochs: int, clock: Clock) -> None:
    from fastai.vision.all import Callback, ImageDataLoaders, Resize, resnet18, vision_learner

    class Timed(Callback):
        def before_train(self) -> None:
            clock.begin()

        def after_train(self) -> None:
            clock.end()

    options = {
        "valid_pct": 0.01,
        "seed": 0,
        "bs": BATCH,
        "num_workers": 0,
        "device": torch.device("cpu"),
    }
    learner = vision_learner(
        ImageDataLoaders.from_folder(path, item_tfms=Resize(224), **options),
        resnet18,
        pretrained=False,
    )
    body = learner.model[0].state_dict()
    tensors = [
        tensor
        for name, tensor in in_network_order(load_file(weights)).items()
        if not name.startswith("fc.")
    ]
    learner.model[0].load_state_dict(dict(zip(body, tensors, strict=True)))
    learner.unfreeze()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(epochs, cbs=[Timed()])


def in_network_order(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors in the order of the network; a file sorts them by name."""
    from torchvision.models import resnet18

    return {name: tensors[name] for name in resnet18().state_dict() if name in tensors}


LOOPS: dict[str, tuple[Callable[..., None], dict[str, bool], str]] = {
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
    parser.add_argument("loop", choices=LOOPS)
    parser.add_argument("folder")
    parser.add_argument("weights")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--head", action="store_true")
    options = parser.parse_args()
    run_loop, extra, library = LOOPS[options.loop]
    if find_spec(library) is None:
        sys.exit(f"{library} is not installed in {sys.executable}: its row is left out")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clock = Clock()
    run_loop(
        options.folder,
        options.weights,
        options.epochs,
        clock,
        **extra,
        **({"head": True} if options.head else {}),
    )
    versions = {name: version(name) for name in dict.fromkeys(("torch", library))}
    print(json.dumps({"epochs": clock.epochs, "stages": clock.stages, "versions": versions}))


if __name__ == "__main__":
    main()
