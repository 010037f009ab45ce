"""export RUN: a file for another runtime, checked against the run."""

from typing import TYPE_CHECKING

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, as_path, to_path

if TYPE_CHECKING:
    from foveate.api.export.core import ExportResult


@entry_point
def export(
    run: PathLike,
    to: str = "onnx",
    *,
    int8: bool = False,
    max_drop: float = 0.01,
    trained_only: bool = False,
    out: PathLike | None = None,
) -> "ExportResult":
    """Export a run to another runtime, and check the file against the run.

    Outputs and the main metric are compared on the run's validation images (else its test or
    training images); a file that differs is not kept.

    Args:
        run: Run folder.
        to: Target of the export; torch writes the weights alone.
        int8: Write a second file, quantized to 8 bits; it is kept if the main metric drops by less
            than `max_drop`.
        max_drop: Largest accepted drop of the main metric of the 8-bit file.
        trained_only: Write only the tensors that training changed, such as a LoRA adapter
            (torch only).
        out: Folder of the files. Default: RUN/export.

    Raises:
        UsageError: The runtime cannot hold the task or the network, or the file exists.
        RunError: The predictions of the file differ from those of the run.
    """
    from foveate.api.export.core import create_exporter, export_run

    exporter = create_exporter(to, int8, trained_only)
    folder = as_path(out) or to_path(run) / "export"
    return export_run(to_path(run), exporter, to, folder, max_drop if int8 else None, trained_only)
