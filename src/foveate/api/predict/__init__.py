"""predict RUN IMAGES: predictions of a run or an exported file."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, as_paths, to_path

if TYPE_CHECKING:
    from foveate.predictions import ImageResult


@entry_point
def predict(
    run: PathLike,
    images: PathLike | Iterable[PathLike],
    *,
    coverage: float = 0.9,
    risk: float = 0.1,
    batch_size: int = 32,
    device: str = "auto",
    strict: bool = False,
) -> "list[ImageResult]":
    """Predict classes, numbers, boxes, masks or captions for images.

    Args:
        run: Run folder, or a file that `foveate export` wrote.
        images: Image files, and folders, volumes, slides, Parquet files and .zip or .tar archives
            of images.
        coverage: Probability with which the set of classes, or the interval of a number, contains
            the true one, if the run was calibrated.
        risk: Highest error rate that is accepted; less certain predictions abstain. So does any
            image that is odder than nearly all validation images: its set holds all classes.
        batch_size: Images per forward pass.
        device: Compute device: auto, cpu, cuda, cuda:1 or mps.
        strict: Stop at the first unreadable image instead of skipping and reporting it.

    Returns:
        One result for each image, in order.

    Raises:
        UsageError: A path does not exist; nothing is predicted then.
        DataError: The images have more than 8 bits on an unknown scale, those of the run had 8.
    """
    from foveate.api.predict.core import open_predictor

    predictor, samples = open_predictor(to_path(run), as_paths(images), coverage, risk, device)
    return list(predictor.predict(samples, strict=strict, batch_size=batch_size))
