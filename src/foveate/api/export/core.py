"""export RUN: a file for another runtime, kept only if its predictions agree with the run's."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from foveate.api.export.bundle import ExportBundle, export_bundle
from foveate.api.export.parity import ExportedFile, ParityCheck, RuntimeFile
from foveate.deploy.postprocess import POSTPROCESSORS
from foveate.deploy.runtime import FORMAT_VERSION
from foveate.deploy.targets import (
    EXPORTERS,
    Exporter,
    ExportProgram,
    QuantizableExporter,
    RuntimeExporter,
    WeightsExporter,
)
from foveate.errors import UsageError
from foveate.modeling.tasks import ExportStep
from foveate.modeling.weights import read_run_tensors
from foveate.run.folder import Run
from foveate.utils import log
from foveate.utils.files import PARTIAL_PREFIX, checksum, read_json, require_free, write_json
from foveate.utils.invocation import shell_command


@dataclass(frozen=True)
class ExportResult:
    """The written files.

    Attributes:
        files: Those that were kept.
        refused: Why the others were not kept.
    """

    folder: Path
    files: Sequence[ExportedFile]
    refused: list[str]

    def numbers(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "files": [file.row() for file in self.files],
            "refused": self.refused,
        }

    def lines(self) -> list[str]:
        lines = [line for file in self.files for line in file.lines()]
        lines += [f"not kept: {reason}" for reason in self.refused]
        lines.append(f"manifest: {self.folder / 'manifest.json'}")
        if self.files and isinstance(self.files[0], RuntimeFile):
            lines.append(f"next: {shell_command('predict', self.files[0].path, 'IMAGES')}")
        return lines


def create_exporter(to: str, int8: bool, trained_only: bool) -> Exporter:
    """Create the exporter. Raises UsageError if it cannot write what is requested."""
    exporter = EXPORTERS.get(to)()
    if int8 and not isinstance(exporter, QuantizableExporter):
        raise UsageError(
            f"{to} files cannot be quantized to 8 bits", where="--int8", hint="--to onnx --int8"
        )
    if trained_only and isinstance(exporter, RuntimeExporter):
        raise UsageError(
            f"{to} files hold whole networks, with adapters merged",
            where="--trained-only",
            hint="--to torch --trained-only",
        )
    return exporter


def export_run(
    run: Path,
    exporter: Exporter,
    to: str,
    folder: Path,
    max_drop: float | None,
    trained_only: bool,
) -> ExportResult:
    """Write the file to `folder`, and compare it with the run; a file that differs is not kept.

    Args:
        run: Run folder.
        exporter: Writes the file.
        to: Name of the target.
        folder: Folder of the files.
        max_drop: Largest accepted drop of the main metric of an 8-bit file; None writes none.
        trained_only: Write only the tensors that training changed.

    Raises:
        UsageError: The file exists, or there are no images to check it on.
        RunError: The predictions of the file differ from those of the run.
    """
    Run.open(run)
    path = folder / f"{run.resolve().name}{'-added' if trained_only else ''}{exporter.suffix}"
    require_free(path)
    bundle = export_bundle(run)
    folder.mkdir(parents=True, exist_ok=True)
    log.info(f"writing {path.name}")
    # nothing gets its final name before it has been checked
    with TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=folder) as temporary:
        partial = Path(temporary) / path.name
        files: Sequence[ExportedFile]
        if isinstance(exporter, RuntimeExporter):
            files, refused = _write_programs(exporter, to, bundle, partial, path, max_drop)
        else:
            assert isinstance(exporter, WeightsExporter)
            files = [_write_weights(exporter, to, bundle, partial, trained_only)]
            refused = []
        for each in sorted(Path(temporary).iterdir()):
            each.replace(folder / each.name)
    files = [replace(file, path=folder / file.path.name) for file in files]
    _update_manifest(folder, files)
    return ExportResult(folder, files, refused)


def _update_manifest(folder: Path, files: Sequence[ExportedFile]) -> None:
    """Add the files to the manifest; files that do not exist any more are left out."""
    manifest, rows = folder / "manifest.json", [file.row() for file in files]
    earlier = read_json(manifest) if manifest.is_file() else []
    names = {row["path"] for row in rows}
    kept = [row for row in earlier if row["path"] not in names and (folder / row["path"]).is_file()]
    write_json(manifest, [*kept, *rows])


def _write_weights(
    exporter: WeightsExporter, to: str, bundle: ExportBundle, path: Path, trained_only: bool
) -> ExportedFile:
    tensors = read_run_tensors(bundle.run.folder) if trained_only else bundle.graph.state_dict()
    exporter.write_tensors(tensors, {**bundle.metadata, "trained_only": trained_only}, path)
    return ExportedFile(path, to, "fp32", path.stat().st_size, checksum(path))


def _write_programs(
    exporter: RuntimeExporter,
    to: str,
    bundle: ExportBundle,
    path: Path,
    final: Path,
    max_drop: float | None,
) -> tuple[list[RuntimeFile], list[str]]:
    """Write and check the file, its parts, its postprocessing module, and the 8-bit file.

    Args:
        exporter: Writes the files.
        to: Name of the target.
        bundle: The run.
        path: File to write.
        final: Its later path, for messages.
        max_drop: Largest accepted drop of the main metric of the 8-bit file; None writes none.

    Returns:
        The files that are kept, and why the others are not.
    """
    with torch.inference_mode():
        outputs = bundle.graph.named(torch.from_numpy(np.stack(bundle.examples())))
    steps = bundle.steps(outputs)
    parts = {name: f"{path.stem}-{name}{path.suffix}" for name in steps}
    metadata = {**bundle.metadata, "parts": parts}
    example = {"images": bundle.graph.empty_images(2)}
    program = ExportProgram(bundle.graph, example, {"images": (0,)}, list(outputs))
    exporter.write(program, metadata, path)
    _write_parts(exporter, steps, parts, path)
    module = POSTPROCESSORS.get(metadata["task"]).numpy_module
    if module is not None:
        source = path.with_name(f"{path.stem}-postprocess.py")
        source.write_text(inspect.getsource(module), encoding="utf-8")
    check = ParityCheck(bundle, steps)
    file = check.measure(path, to, "fp32")
    check.require_parity(file, final)
    if max_drop is None or not isinstance(exporter, QuantizableExporter):
        return [file], []
    small, reason = _write_int8(exporter, file, check, {**metadata, "precision": "int8"}, max_drop)
    return [file, *([small] if small else [])], [reason] if reason else []


def _write_parts(
    exporter: RuntimeExporter, steps: dict[str, ExportStep], parts: dict[str, str], path: Path
) -> None:
    for name, step in steps.items():
        exporter.write(
            ExportProgram(step.module, step.example, step.dynamic_axes, [step.output]),
            {"format": FORMAT_VERSION, "part": name, "of": path.name},
            path.with_name(parts[name]),
        )


def _write_int8(
    exporter: QuantizableExporter,
    file: RuntimeFile,
    check: ParityCheck,
    metadata: dict[str, Any],
    max_drop: float,
) -> tuple[RuntimeFile | None, str]:
    """Return the 8-bit file, or why it is not kept."""
    path = file.path.with_name(f"{file.path.stem}-int8{file.path.suffix}")
    log.info(f"writing {path.name}")
    exporter.quantize(file.path, check.calibration_batches(), metadata, path)
    small = check.measure(path, file.runtime, "int8")
    drop = file.score.value - small.score.value
    if drop < max_drop:
        return small, ""
    path.unlink()
    return (
        None,
        f"{path.name}: {small.metric} drops by {drop:.4f} to {small.score.value:.4f}; "
        f"--max-drop {max_drop} allows less",
    )
