"""RT-DETRv2 (Zhao et al. 2024; Lv et al. 2024): a fixed number of queries, each one object or none.

The encoder, the decoder and the loss are those of the transformers library; here they read the maps
of any backbone and are trained from random weights. Queries are matched one to one with objects
(DETR, Carion et al. 2020), so there is nothing to suppress. `width` is the model width (256 in the
paper), `depth` the number of decoder layers (3 to 6). It learns more slowly than detectors on
points and anchors: give it more epochs, or more images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert

from foveate.errors import UsageError
from foveate.modeling.detectors import PRIOR_LOGIT, Detector, LossNames, ObjectTargets
from foveate.modeling.pyramid import group_norm

_QUERIES = 100  # 300 in the paper, for the crowded images of COCO
_DENOISING_QUERIES = 100  # start from noised targets while training (DN-DETR, Li et al. 2022)
_HEAD_WIDTH = 16  # channels of an attention head


@dataclass(frozen=True)
class RtDetrOutput:
    """Predictions of the L decoder layers for Q queries.

    Attributes:
        logits: (B, L, Q, K).
        boxes: (B, L, Q, 4), center, width and height, in shares of the square.
        first_logits, first_boxes: (B, P, K) and (B, P, 4), the encoder's proposals that the
            last P queries start from.
        denoising: What transformers reports of the first Q - P queries, which start from noised
            targets; None outside training.
        size: (H, W).
    """

    logits: Tensor
    boxes: Tensor
    first_logits: Tensor
    first_boxes: Tensor
    denoising: dict[str, Any] | None
    size: tuple[int, int]


class RtDetrHead(nn.Module):
    def __init__(self, classes: int, width: int, depth: int) -> None:
        from transformers import RTDetrV2Model

        super().__init__()
        self.config = _config(classes, width, depth)
        self.model = cast(Any, RTDetrV2Model(self.config))  # some parts are replaced below
        _initialize(self.model)
        # the pyramid replaces these two
        self.model.backbone, self.model.encoder_input_proj = nn.Identity(), nn.ModuleList()
        self.model.enc_score_head = _class_layer(width, classes)
        self.model.enc_bbox_head = _BoxDeltas(width)
        self.model.decoder.class_embed = nn.ModuleList(
            _class_layer(width, classes) for _ in range(depth)
        )
        self.model.decoder.bbox_embed = nn.ModuleList(_BoxDeltas(width) for _ in range(depth))

    def forward(
        self, maps: list[Tensor], size: tuple[int, int], targets: list[ObjectTargets] | None = None
    ) -> RtDetrOutput:
        maps = _exact_doubling(maps)
        encoded = self.model.encoder(maps).last_hidden_state
        # bf16 resolves positions to 1/256 only
        with torch.autocast(maps[0].device.type, enabled=False):
            # `inputs_embeds` only carries the device where the encoder's output is given
            self.config.num_queries = min(
                _QUERIES, sum(level.shape[-2] * level.shape[-1] for level in maps)
            )
            decoded = self.model(
                None,
                inputs_embeds=maps[0],
                encoder_outputs=([level.float() for level in encoded],),
                labels=None if targets is None else _labels(targets, size),
            )
        first = decoded.enc_topk_logits, decoded.enc_topk_bboxes
        return RtDetrOutput(
            decoded.intermediate_logits,
            decoded.intermediate_reference_points,
            *first,
            decoded.denoising_meta_values,
            size,
        )


class RtDetr(Detector):
    max_stride: ClassVar[int] = 32
    needs_nms: ClassVar[bool] = False
    default_losses: ClassVar[LossNames] = LossNames("varifocal", "l1+giou")

    def __init__(self, classes: int, width: int, depth: int, losses: LossNames) -> None:
        if losses != LossNames():
            what = "rtdetr supports only the losses of its paper: varifocal, and L1 with GIoU"
            raise UsageError(
                what,
                where="task.class_loss, task.box_loss",
                hint="leave both out, or --set task.head=fcos",
            )
        super().__init__(classes, width, depth, losses)

    def network(self) -> nn.Module:
        return RtDetrHead(self.classes, self.width, self.depth)

    def loss(self, output: RtDetrOutput, targets: list[ObjectTargets]) -> dict[str, Tensor]:
        """Return the losses, summed over decoder layers, proposals and noised targets.

        The same three losses apply to every decoder layer, the encoder's proposals and the noised
        targets.
        """
        from transformers.loss.loss_rt_detr import RTDetrForObjectDetectionLoss

        # the matcher would fail; the trainer handles NaN
        if not bool(output.boxes.isfinite().all()):
            return {"class": output.logits.sum() * torch.nan}
        _, losses, _ = RTDetrForObjectDetectionLoss(  # type: ignore[no-untyped-call]
            output.logits[:, -1].float(),
            _labels(targets, output.size),
            output.logits.device,
            output.boxes[:, -1].float(),
            _config(self.classes, self.width, self.depth),
            output.logits.float(),
            output.boxes.float(),
            output.first_logits.float(),
            output.first_boxes.float(),
            output.denoising,
        )
        kinds = {"class": "loss_vfl", "box": "loss_bbox", "giou": "loss_giou"}
        parts = {
            name: [value for key, value in losses.items() if key.startswith(kind)]
            for name, kind in kinds.items()
        }
        return {name: torch.stack(values).sum() for name, values in parts.items()}

    def dense_predictions(self, output: RtDetrOutput) -> tuple[Tensor, Tensor]:
        count = output.first_logits.shape[1]
        scores = output.logits[:, -1, -count:].float().sigmoid()
        height, width = output.size
        square = output.boxes.new_tensor([width, height, width, height], dtype=torch.float32)
        return box_convert(output.boxes[:, -1, -count:].float(), "cxcywh", "xyxy") * square, scores


class _BoxDeltas(nn.Module):
    """(..., width) -> (..., 4): box offsets, zero at first."""

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


def _class_layer(width: int, classes: int) -> nn.Linear:
    layer = nn.Linear(width, classes)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.constant_(layer.bias, PRIOR_LOGIT)
    return layer


def _config(classes: int, width: int, depth: int) -> Any:
    """The configuration for transformers, with the smallest backbone, because it is thrown away."""
    from transformers import RTDetrResNetConfig, RTDetrV2Config

    unused: dict[str, Any] = {
        "embedding_size": 8,
        "hidden_sizes": [8] * 4,
        "depths": [1] * 4,
        "out_indices": [2, 3, 4],
    }
    settings: dict[str, Any] = {
        "num_labels": classes,
        "num_queries": _QUERIES,
        "num_denoising": _DENOISING_QUERIES,
        "d_model": width,
        "encoder_hidden_dim": width,
        "encoder_in_channels": [width] * 3,
        "decoder_in_channels": [width] * 3,
        "encoder_ffn_dim": 4 * width,
        "decoder_ffn_dim": 4 * width,
        "encoder_attention_heads": width // _HEAD_WIDTH,
        "decoder_attention_heads": width // _HEAD_WIDTH,
        "decoder_layers": depth,
    }
    return RTDetrV2Config(
        backbone_config=RTDetrResNetConfig(layer_type="basic", **unused), **settings
    )


def _initialize(model: Any) -> None:
    """Initialize as the authors of RT-DETR do, with group instead of batch normalization.

    The initial weights of transformers are several times smaller, since pretrained ones replace
    them. Small batches are a poor source of batch statistics.
    """
    for name, module in list(model.named_modules()):
        parent, _, last = name.rpartition(".")
        if isinstance(module, nn.BatchNorm2d):
            setattr(model.get_submodule(parent), last, group_norm(module.num_features))
        # deformable attention keeps its own initialization, which spreads the sampling points
        elif isinstance(module, nn.Linear | nn.Conv2d) and "encoder_attn" not in name:
            module.reset_parameters()
    for layer in (model.enc_output[0], *model.decoder.query_pos_head.layers):
        nn.init.xavier_uniform_(layer.weight)


def _exact_doubling(maps: list[Tensor]) -> list[Tensor]:
    """Resize maps so that sides double exactly from the last to the first.

    Positions are shares of the square, so that resizing is harmless.
    """
    height, width = maps[-1].shape[-2:]
    shapes = [(height << power, width << power) for power in reversed(range(len(maps)))]
    return [
        each
        if each.shape[-2:] == shape
        else functional.interpolate(each, shape, mode="bilinear", align_corners=False)
        for each, shape in zip(maps, shapes, strict=True)
    ]


def _labels(targets: list[ObjectTargets], size: tuple[int, int]) -> list[dict[str, Tensor]]:
    """Targets in the form of transformers: center, width and height, in shares of the square."""
    height, width = size
    return [
        {
            "class_labels": target.classes,
            "boxes": box_convert(target.boxes, "xyxy", "cxcywh")
            / target.boxes.new_tensor([width, height, width, height]),
        }
        for target in targets
    ]
