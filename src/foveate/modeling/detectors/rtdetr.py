"""RT-DETRv2 (Zhao et al. 2024; Lv et al. 2024): a fixed number of queries, each of which becomes one object or none.

The encoder, the decoder and the loss are those of the package transformers; here they read the maps of any backbone and learn
from random weights. Queries are matched one to one with objects (DETR, Carion et al. 2020), so there is nothing to suppress.
`width` is the model's (the paper takes 256), `depth` the number of its decoder layers (3 to 6). It learns slower than the
detectors on points and anchors: give it more epochs, or images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert

from foveate.errors import UsageError
from foveate.modeling.detectors import PRIOR, Detector, Terms, Truth
from foveate.modeling.pyramid import group_norm

_QUERIES = 100  # the paper takes 300, for the crowded pictures of COCO
_DENOISED = (
    100  # queries that start from a disturbed truth while training (DN-DETR, Li et al. 2022)
)
_HEAD = 16  # channels of an attention head


@dataclass(frozen=True)
class Output:
    """`logits` (B, L, Q, K) and `boxes` (B, L, Q, 4) of the L decoder layers; `first_logits` (B, P, K) and `first_boxes`
    (B, P, 4) of the places that the last P queries start from. `noise`: what transformers tells about the first Q - P
    queries, which start from disturbed truths; None outside training. `size`: (H, W).

    Boxes are middle, width and height, in shares of the square.
    """

    logits: Tensor
    boxes: Tensor
    first_logits: Tensor
    first_boxes: Tensor
    noise: dict[str, Any] | None
    size: tuple[int, int]


class Network(nn.Module):
    def __init__(self, classes: int, width: int, depth: int) -> None:
        from transformers import RTDetrV2Model

        super().__init__()
        self.config = _config(classes, width, depth)
        self.model = cast(
            Any, RTDetrV2Model(self.config)
        )  # parts of it are replaced by others of the same use
        _renew(self.model)
        self.model.backbone, self.model.encoder_input_proj = (
            nn.Identity(),
            nn.ModuleList(),
        )  # the pyramid is in their place
        self.model.enc_score_head, self.model.enc_bbox_head = _score(width, classes), _Move(width)
        self.model.decoder.class_embed = nn.ModuleList(_score(width, classes) for _ in range(depth))
        self.model.decoder.bbox_embed = nn.ModuleList(_Move(width) for _ in range(depth))

    def forward(
        self, maps: list[Tensor], size: tuple[int, int], truths: list[Truth] | None = None
    ) -> Output:
        maps = _doubling(maps)
        encoded = self.model.encoder(maps).last_hidden_state
        with torch.autocast(maps[0].device.type, enabled=False):  # bf16 knows places to 1/256 only
            # `inputs_embeds` tells the device alone, where the encoder's answer is given
            self.config.num_queries = min(
                _QUERIES, sum(level.shape[-2] * level.shape[-1] for level in maps)
            )
            found = self.model(
                None,
                inputs_embeds=maps[0],
                encoder_outputs=([level.float() for level in encoded],),
                labels=None if truths is None else _labels(truths, size),
            )
        first = found.enc_topk_logits, found.enc_topk_bboxes
        return Output(
            found.intermediate_logits,
            found.intermediate_reference_points,
            *first,
            found.denoising_meta_values,
            size,
        )


class RtDetr(Detector):
    last: ClassVar[int] = 32
    suppresses: ClassVar[bool] = False
    paper: ClassVar[Terms] = Terms("varifocal", "l1+giou")

    def __init__(self, classes: int, width: int, depth: int, terms: Terms) -> None:
        if terms != Terms():
            what = "the detector rtdetr learns with the losses of its paper alone: varifocal for classes, L1 and GIoU for boxes"
            raise UsageError(
                what,
                where="task.class_loss, task.box_loss",
                hint="leave both out, or --set task.head=fcos",
            )
        super().__init__(classes, width, depth, terms)

    def network(self) -> nn.Module:
        return Network(self.classes, self.width, self.depth)

    def loss(self, output: Output, truths: list[Truth]) -> dict[str, Tensor]:
        """Every layer of the decoder, its starting places, and the disturbed truths, each by the same three terms."""
        from transformers.loss.loss_rt_detr import RTDetrForObjectDetectionLoss

        if not bool(
            output.boxes.isfinite().all()
        ):  # the matcher would fail; the loop knows what to do
            return {"class": output.logits.sum() * torch.nan}
        _, losses, _ = RTDetrForObjectDetectionLoss(  # type: ignore[no-untyped-call]
            output.logits[:, -1].float(),
            _labels(truths, output.size),
            output.logits.device,
            output.boxes[:, -1].float(),
            _config(self.classes, self.width, self.depth),
            output.logits.float(),
            output.boxes.float(),
            output.first_logits.float(),
            output.first_boxes.float(),
            output.noise,
        )
        kinds = {"class": "loss_vfl", "box": "loss_bbox", "overlap": "loss_giou"}
        parts = {
            name: [value for key, value in losses.items() if key.startswith(kind)]
            for name, kind in kinds.items()
        }
        return {name: torch.stack(values).sum() for name, values in parts.items()}

    def places(self, output: Output) -> tuple[Tensor, Tensor]:
        count = output.first_logits.shape[1]
        scores = output.logits[:, -1, -count:].float().sigmoid()
        height, width = output.size
        square = output.boxes.new_tensor([width, height, width, height], dtype=torch.float32)
        return box_convert(output.boxes[:, -1, -count:].float(), "cxcywh", "xyxy") * square, scores


class _Move(nn.Module):
    """(..., width) -> (..., 4): how a box moves; not at all at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Linear(width, 4)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), last
        )

    def forward(self, queries: Tensor) -> Tensor:
        return self.layers(queries)  # type: ignore[no-any-return]


def _score(width: int, classes: int) -> nn.Linear:
    made = nn.Linear(width, classes)
    nn.init.xavier_uniform_(made.weight)
    nn.init.constant_(made.bias, PRIOR)
    return made


def _config(classes: int, width: int, depth: int) -> Any:
    """What transformers needs to know. Its backbone is made as small as it can be, because it is thrown away."""
    from transformers import RTDetrResNetConfig, RTDetrV2Config

    unused: dict[str, Any] = {
        "embedding_size": 8,
        "hidden_sizes": [8] * 4,
        "depths": [1] * 4,
        "out_indices": [2, 3, 4],
    }
    wanted: dict[str, Any] = {
        "num_labels": classes,
        "num_queries": _QUERIES,
        "num_denoising": _DENOISED,
        "d_model": width,
        "encoder_hidden_dim": width,
        "encoder_in_channels": [width] * 3,
        "decoder_in_channels": [width] * 3,
        "encoder_ffn_dim": 4 * width,
        "decoder_ffn_dim": 4 * width,
        "encoder_attention_heads": width // _HEAD,
        "decoder_attention_heads": width // _HEAD,
        "decoder_layers": depth,
    }
    return RTDetrV2Config(
        backbone_config=RTDetrResNetConfig(layer_type="basic", **unused), **wanted
    )


def _renew(model: Any) -> None:
    """First weights as the authors of RT-DETR draw them: those of transformers are several times smaller, since pretrained ones
    come over them. Group instead of batch normalisation: few images at once are a poor source of statistics."""
    for name, module in list(model.named_modules()):
        place, _, last = name.rpartition(".")
        if isinstance(module, nn.BatchNorm2d):
            setattr(model.get_submodule(place), last, group_norm(module.num_features))
        elif (
            isinstance(module, nn.Linear | nn.Conv2d) and "encoder_attn" not in name
        ):  # that one looks around from the start
            module.reset_parameters()
    for layer in (model.enc_output[0], *model.decoder.query_pos_head.layers):
        nn.init.xavier_uniform_(layer.weight)


def _doubling(maps: list[Tensor]) -> list[Tensor]:
    """Maps whose sides double exactly from the last to the first; places are shares of the square, so stretching is harmless."""
    height, width = maps[-1].shape[-2:]
    shapes = [(height << power, width << power) for power in reversed(range(len(maps)))]
    return [
        each
        if each.shape[-2:] == shape
        else functional.interpolate(each, shape, mode="bilinear", align_corners=False)
        for each, shape in zip(maps, shapes, strict=True)
    ]


def _labels(truths: list[Truth], size: tuple[int, int]) -> list[dict[str, Tensor]]:
    """The objects as transformers wants them: middle, width and height, in shares of the square."""
    height, width = size
    return [
        {
            "class_labels": truth.classes,
            "boxes": box_convert(truth.boxes, "xyxy", "cxcywh")
            / truth.boxes.new_tensor([width, height, width, height]),
        }
        for truth in truths
    ]
