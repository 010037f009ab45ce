"""audit RUN [DATA]: find likely label errors, redundant images and images worth labeling."""

from typing import TYPE_CHECKING

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, as_path, to_path

if TYPE_CHECKING:
    from foveate.api.audit.core import AuditResult


@entry_point
def audit(
    run: PathLike,
    data: PathLike | None = None,
    *,
    unlabeled: PathLike | None = None,
    extra_labels: int = 200,
    format: str = "csv",
    out: PathLike | None = None,
    device: str = "auto",
    allow_outside: bool = False,
) -> "AuditResult":
    """Find likely label errors, redundant and hard images, and images worth labeling.

    Every image is rated by a classifier on the features of the run that was not fitted to it.
    Nothing in your data is changed.

    Args:
        run: Run folder.
        data: Other single-label classification data. Default: the run's own images.
        unlabeled: Unlabeled images, to rank by how much labeling them would help.
        extra_labels: Number of extra labels to extrapolate the learning curve to.
        format: csv for tables only, or an annotation tool, labelstudio, cvat or labelme: its files
            of the labels to review and of the images to label next are written as well.
        out: Folder to create. Default: RUN/audits/N.
        device: Compute device: auto, cpu, cuda, cuda:1 or mps.
        allow_outside: Read images that the data name outside of their folder.

    Raises:
        UsageError: The run has another task, there are too few images, or the format is unknown.
        DataError: The data are not single-label classification data.
    """
    from foveate.api.audit import core
    from foveate.run.folder import Run
    from foveate.utils.files import next_free_path, require_free

    core.check_format(format)
    Run.open(to_path(run))
    folder = as_path(out) or next_free_path(to_path(run) / "audits")
    require_free(folder)
    predictor, scanned = core.scan_labeled(to_path(run), as_path(data), device, allow_outside)
    features = core.LabeledFeatures.of(predictor, scanned)
    return core.write_audit(folder, predictor, features, as_path(unlabeled), extra_labels, format)
