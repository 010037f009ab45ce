"""explain RUN IMAGES: heat maps of a prediction, each with tests of its faithfulness."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, as_path, as_paths, to_path

if TYPE_CHECKING:
    from foveate.api.explain.core import ExplainResult


@entry_point
def explain(
    run: PathLike,
    images: PathLike | Iterable[PathLike],
    *,
    methods: str | Iterable[str] = ("gradcam", "hirescam"),
    texts: str | Iterable[str] = (),
    nearest: int = 0,
    thorough: bool = False,
    out: PathLike | None = None,
    device: str = "auto",
    strict: bool = False,
) -> "ExplainResult":
    """Explain predictions with heat maps, each tested for faithfulness.

    One sheet is written for each image: a row for each class, box or word that is explained, and a
    column for each method.

    Args:
        run: Run folder.
        images: Image files and folders.
        methods: Explanation methods.
        texts: Text queries to explain instead of the predictions (CLIP-like backbones only).
        nearest: Number of most similar training images to show below each sheet.
        thorough: Test each map by finer insertion and deletion curves and more random orders, which
            takes several times as long.
        out: Folder to create. Default: RUN/explanations/N.
        device: Compute device: auto, cpu, cuda, cuda:1 or mps.
        strict: Stop at the first unreadable image instead of skipping and reporting it.

    Raises:
        UsageError: The network does not support a method, or the task has nothing to explain.
    """
    from foveate.api.explain.core import Request, create_explainers, explain_images
    from foveate.run.folder import Run
    from foveate.utils.files import next_free_path, require_free

    Run.open(to_path(run))
    folder = as_path(out) or next_free_path(to_path(run) / "explanations")
    require_free(folder)
    names, queries = ([each] if isinstance(each, str) else list(each) for each in (methods, texts))
    request = Request(create_explainers(names), tuple(queries), nearest, strict, thorough)
    return explain_images(to_path(run), as_paths(images), request, folder, device)
