"""evaluate RUN [DATA]: metrics with counts and intervals, predictions and a report."""

from typing import TYPE_CHECKING, Literal

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, as_path, to_path

if TYPE_CHECKING:
    from foveate.api.evaluate.result import EvaluateResult


@entry_point
def evaluate(
    run: PathLike,
    data: PathLike | None = None,
    *,
    split: Literal["auto", "train", "val", "test", "unlike", "all"] = "auto",
    shift: PathLike | None = None,
    ood: PathLike | None = None,
    corrupt: bool = False,
    slices: PathLike | None = None,
    format: str = "auto",
    lang: str | None = None,
    device: str = "auto",
    strict: bool = False,
    allow_outside: bool = False,
) -> "EvaluateResult":
    """Evaluate a run on its held-out images or on new data, and write a report.

    Args:
        run: Run folder.
        data: Labeled data. Default: the run's own images.
        split: Images to evaluate; auto takes test, else val, else all. Some runs of `--tuning auto`
            have images that are unlike the training images: look-alikes that they held out.
        shift: Dataset from another domain; reports the drop of each metric.
        ood: Out-of-distribution images; reports the detection AUROC.
        corrupt: Evaluate also under noise, blur, fog and JPEG compression, at five severities.
        slices: Table with a column `path` and others, such as site or sex; reports the metrics of
            each subgroup.
        format: Dataset format, of all data that is given.
        lang: Language of the report. Default: that of the run.
        device: Compute device: auto, cpu, cuda, cuda:1 or mps.
        strict: Stop at the first unreadable image instead of skipping and reporting it.
        allow_outside: Read images that the data name outside of their folder.

    Raises:
        UsageError: There is no run at the path.
        RunError: The run is unfinished or damaged.
        DataError: The data cannot be read, or does not fit the run.
    """
    from foveate.api.evaluate.core import Extras, Source, evaluate_run

    source = Source(as_path(data), split, format, strict, allow_outside)
    extras = Extras(as_path(ood), corrupt, as_path(slices), lang)
    return evaluate_run(to_path(run), source, device, extras, as_path(shift))
