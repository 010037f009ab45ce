"""adapt RUN IMAGES: adapt a finished run to unlabeled images from another domain, as a new run."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, as_path, as_paths, to_path

if TYPE_CHECKING:
    from foveate.api.adapt.core import AdaptResult


@entry_point
def adapt(
    run: PathLike,
    images: PathLike | Iterable[PathLike],
    *,
    out: PathLike | None = None,
    method: str = "adabn",
    settings: dict[str, Any] | None = None,
    device: str = "auto",
    strict: bool = False,
) -> "AdaptResult":
    """Adapt a finished run to unlabeled images from another domain.

    The result is a new run; `run` itself is not changed. The images that it was trained on must
    still exist, because the new ones are compared with them.

    Args:
        run: Run folder.
        images: Image files and folders to adapt to.
        out: Run folder to create. Default: runs/NAME-METHOD-N.
        method: Adaptation method.
        settings: Settings of the method, such as {"prior": 64}.
        device: Compute device: auto, cpu, cuda, cuda:1 or mps.
        strict: Stop at the first unreadable image instead of skipping and reporting it.

    Raises:
        UsageError: The run is adapted already, or the method cannot adapt it.
        RunError: The training images of the run are gone.
        DataError: No image can be read.
    """
    from foveate.api.adapt import core
    from foveate.data.discovery import find_images_at
    from foveate.run.folder import Run

    start = time.perf_counter()
    Run.require_free(as_path(out))
    adaptation = core.create_adaptation(method, settings)
    paths = list(dict.fromkeys(find_images_at(as_paths(images))))
    first, predictor = core.open_source(to_path(run), adaptation, method, device)
    source, target = core.scan_domains(first, paths, predictor, strict)
    before, metric = core.predict_all(predictor, target, source)
    changed = core.run_adaptation(adaptation, predictor, source, target)
    after, _ = core.predict_all(predictor, target, source)
    new = Run.create(as_path(out), f"{first.folder.name}-{method}")
    with new.locked():
        core.write_run(new, first, changed, core.describe(adaptation, method, first, target))
    return core.AdaptResult(
        run=new.folder,
        method=method,
        images=len(target.hashes),
        skipped=len(target.skipped),
        before=before,
        after=after,
        metric=metric,
        seconds=time.perf_counter() - start,
    )
