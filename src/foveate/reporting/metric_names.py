"""Names of metrics and columns as reports show them, in every language."""

from __future__ import annotations

from foveate.messages import Message

_VALIDATION = "val_"  # prefix of the columns of metrics.jsonl
_NAMES = {
    "accuracy": Message("metric.accuracy", "accuracy"),
    "auroc": Message("metric.auroc", "AUROC"),
    "average_precision": Message("metric.average_precision", "average precision"),
    "majority_accuracy": Message(
        "metric.majority_accuracy", "accuracy of always answering the most frequent class"
    ),
    "balanced_accuracy": Message("metric.balanced_accuracy", "balanced accuracy"),
    "bleu_1": Message("metric.bleu_1", "BLEU-1"),
    "bleu_2": Message("metric.bleu_2", "BLEU-2"),
    "bleu_3": Message("metric.bleu_3", "BLEU-3"),
    "bleu_4": Message("metric.bleu_4", "BLEU-4"),
    "boundary_f1": Message("metric.boundary_f1", "boundary F1"),
    "calibration_error_by_chance": Message(
        "metric.calibration_error_by_chance", "calibration error by chance"
    ),
    "chrf": Message("metric.chrf", "chrF"),
    "cider": Message("metric.cider", "CIDEr"),
    "class": Message("metric.class", "class"),
    "count": Message("metric.count", "count"),
    "dice": Message("metric.dice", "Dice"),
    "dice_per_image": Message("metric.dice_per_image", "mean Dice of an image"),
    "epoch": Message("metric.epoch", "epoch"),
    "exact_match": Message("metric.exact_match", "exact match"),
    "expected_calibration_error": Message(
        "metric.expected_calibration_error", "expected calibration error"
    ),
    "explained": Message("metric.explained", "explained noise"),
    "f1": Message("metric.f1", "F1"),
    "interval_coverage": Message("metric.interval_coverage", "coverage of the intervals"),
    "interval_width": Message("metric.interval_width", "width of the intervals"),
    "iou": Message("metric.iou", "IoU"),
    "knn_accuracy": Message("metric.knn_accuracy", "k-NN accuracy"),
    "linear_accuracy": Message("metric.linear_accuracy", "linear accuracy"),
    "log_loss": Message("metric.log_loss", "log loss"),
    "loss": Message("metric.loss", "loss"),
    "lr": Message("metric.lr", "learning rate"),
    "macro_f1": Message("metric.macro_f1", "macro F1"),
    "mae": Message("metric.mae", "mean absolute error"),
    "mae_gain": Message("metric.mae_gain", "lower mean absolute error than by the median"),
    "map": Message("metric.map", "mAP"),
    "map_50": Message("metric.map_50", "mAP 50"),
    "map_75": Message("metric.map_75", "mAP 75"),
    "map_small": Message("metric.map_small", "mAP of small objects"),
    "map_medium": Message("metric.map_medium", "mAP of medium objects"),
    "map_large": Message("metric.map_large", "mAP of large objects"),
    "mar_100": Message("metric.mar_100", "mAR 100"),
    "mask_map": Message("metric.mask_map", "mask mAP"),
    "mask_map_50": Message("metric.mask_map_50", "mask mAP 50"),
    "mask_map_75": Message("metric.mask_map_75", "mask mAP 75"),
    "mean_average_precision": Message("metric.mean_average_precision", "mean average precision"),
    "mean_iou": Message("metric.mean_iou", "mean IoU"),
    "mean_rmse": Message("metric.mean_rmse", "RMSE of always the training mean"),
    "median_mae": Message("metric.median_mae", "mean absolute error of always the training median"),
    "micro_f1": Message("metric.micro_f1", "micro F1"),
    "object_recall": Message("metric.object_recall", "recall of objects"),
    "object_recall_small": Message("metric.object_recall_small", "recall of small objects"),
    "object_recall_medium": Message("metric.object_recall_medium", "recall of medium objects"),
    "object_recall_large": Message("metric.object_recall_large", "recall of large objects"),
    "pixel_accuracy": Message("metric.pixel_accuracy", "pixel accuracy"),
    "precision": Message("metric.precision", "precision"),
    "r2": Message("metric.r2", "R²"),
    "rank": Message("metric.rank", "rank"),
    "recall": Message("metric.recall", "recall"),
    "rmse": Message("metric.rmse", "RMSE"),
    "rouge_l": Message("metric.rouge_l", "ROUGE-L"),
    "seconds": Message("metric.seconds", "seconds"),
    "self_retrieval": Message("metric.self_retrieval", "self retrieval"),
    "sensitivity": Message("metric.sensitivity", "sensitivity"),
    "sensitivity_at_threshold": Message(
        "metric.sensitivity_at_threshold", "sensitivity at the chosen threshold"
    ),
    "set_coverage": Message("metric.set_coverage", "set coverage"),
    "set_size": Message("metric.set_size", "set size"),
    "spearman": Message("metric.spearman", "Spearman's rank correlation"),
    "specificity": Message("metric.specificity", "specificity"),
    "specificity_at_threshold": Message(
        "metric.specificity_at_threshold", "specificity at the chosen threshold"
    ),
    "spread": Message("metric.spread", "spread"),
    "step": Message("metric.step", "step"),
    "top_5": Message("metric.top_5", "top-5 accuracy"),
    "train_loss": Message("metric.train_loss", "training loss"),
    "weighted_f1": Message("metric.weighted_f1", "weighted F1"),
}
_CORRUPTIONS = {
    "gaussian_noise": Message("corruption.gaussian_noise", "Gaussian noise"),
    "shot_noise": Message("corruption.shot_noise", "shot noise"),
    "impulse_noise": Message("corruption.impulse_noise", "impulse noise"),
    "defocus_blur": Message("corruption.defocus_blur", "defocus blur"),
    "motion_blur": Message("corruption.motion_blur", "motion blur"),
    "fog": Message("corruption.fog", "fog"),
    "brightness": Message("corruption.brightness", "brightness"),
    "contrast": Message("corruption.contrast", "contrast"),
    "pixelate": Message("corruption.pixelate", "pixelation"),
    "jpeg": Message("corruption.jpeg", "JPEG compression"),
}


def metric_name(name: str) -> Message:
    """Return how reports write a metric or a column: "mean IoU" for "mean_iou".

    Names that are not known, such as those of plug-ins, are written with spaces.
    """
    if name in _NAMES:
        return _NAMES[name]
    if name.startswith(_VALIDATION):
        metric = metric_name(name.removeprefix(_VALIDATION))
        return Message("metric.validation", "validation {metric}", metric=metric)
    return _plain(name)


def corruption_name(name: str) -> Message:
    """Return how reports write a corruption: "shot noise" for "shot_noise"."""
    return _CORRUPTIONS.get(name) or _plain(name)


def _plain(name: str) -> Message:
    return Message("", "{name}", name=name.replace("_", " "))
