"""Weight files without code in them: safetensors, and torch files read with weights_only.

A torch file is a pickle, so a process of its own reads it.
"""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.errors import UsageError, WeightsError, did_you_mean
from foveate.messages import counted
from foveate.run.folder import MODEL_FILE

if TYPE_CHECKING:
    from torch import Tensor, nn

# bytes: enough for 30,000 tensors; the format allows 100 MB, whose parsing takes a gigabyte
_MAX_HEADER = 4_000_000
WEIGHT_SOURCES = ("auto", "hub", "offline", "none")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_TIMEOUT = 600  # seconds, for the process that reads a torch file
_SPARE = 500_000_000  # bytes that reading may take beside the tensors, twice
_READ_TORCH_FILE = """
import os, sys, zipfile
path, target, spare = sys.argv[1], sys.argv[2], int(sys.argv[3])
size = os.path.getsize(path)
if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > size:
            sys.exit("it is compressed, and larger than it seems")
import torch
from safetensors.torch import save_file
try:
    import resource
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + 2 * size + spare,) * 2)
except (ImportError, OSError, ValueError):
    pass  # not Linux
content = torch.load(path, map_location="cpu", weights_only=True)
for key in ("state_dict", "model_state_dict", "model", "teacher", "student"):
    if isinstance(content, dict) and isinstance(content.get(key), dict):
        content = content[key]
tensors, left, same = {}, size, {}
for name, value in content.items():
    if not isinstance(value, torch.Tensor):
        continue
    value = value.detach()
    key = value.data_ptr(), value.dtype, value.shape, value.stride()
    if value.numel() and key in same:  # tied: written once
        tensors[str(name)] = same[key]
        continue
    left -= value.numel() * value.element_size()
    if left < 0:
        sys.exit("its tensors are larger than the file")
    same[key] = str(name)
    tensors[str(name)] = value.contiguous().clone()
names = {name: value for name, value in tensors.items() if isinstance(value, str)}
save_file({name: tensors[name] for name in tensors.keys() - names.keys()}, target, names)
"""


def read_tensors(path: Path, verbatim: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors, .pt, .pth or .bin file.

    Args:
        path: The file.
        verbatim: Keep the names as they are. Otherwise wrappers ("module.", "state_dict") are
            removed. Files that Foveate wrote need it: all trained tensors of a run may begin with
            "backbone.".

    Returns:
        The tensors by name.

    Raises:
        UsageError: There is no such file, or its extension is unknown.
        WeightsError: The file is damaged, or contains code.
    """
    check_weights(str(path))
    if path.suffix == ".safetensors":
        return _read_safetensors(path) if verbatim else _unwrap(_read_safetensors(path))
    if path.suffix in _SUFFIXES[1:]:
        return _unwrap(_read_torch(path))
    raise UsageError(
        "this is not a weights file", where=path, hint=f"one of: {', '.join(_SUFFIXES)}"
    )


def check_weights(weights: str) -> None:
    """Raise UsageError unless `weights` names a source of weights or an existing file."""
    path = Path(weights).expanduser()
    if weights in WEIGHT_SOURCES or path.is_file():
        return
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    sources = (
        f"{', '.join(WEIGHT_SOURCES)}, or a {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} file"
    )
    if path.name == weights and not path.suffix:
        what = f"there are no weights {weights!r}"
        hint = did_you_mean(weights, [*WEIGHT_SOURCES, *siblings])
        raise UsageError(what, where="--weights", hint=hint or f"one of: {sources}")
    hint = did_you_mean(path.name, siblings) or f"one of: {sources}"
    raise UsageError("there is no weights file at this path", where=path, hint=hint)


def read_run_tensors(folder: Path, name: str = MODEL_FILE) -> dict[str, Tensor]:
    """Read a tensor file that Foveate wrote into a run folder or a checkpoint.

    Raises:
        UsageError: There is no such file.
        WeightsError: The file is damaged.
    """
    return read_tensors(folder / name, verbatim=True)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _check_header(path)
    try:
        return dict(load_file(path))
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError("this safetensors file is damaged", where=path, why=str(error)) from None


def _check_header(path: Path) -> None:
    """Refuse a header that is too long, not JSON, or has a name twice, before allocating memory."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, _MAX_HEADER):
            raise WeightsError(
                "this safetensors file is damaged", where=path, why="its header is too long"
            )
        header = file.read(length)
    try:
        json.loads(header, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise WeightsError(
            "this safetensors file is damaged", where=path, why=f"its header: {error}"
        ) from None


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name occurs twice")
    return content


def _read_torch(path: Path) -> dict[str, Tensor]:
    """Read a torch file in another process, which allows only tensors and returns safetensors.

    Tensors may share what they hold, or repeat it: what they take is at most the size of the file.
    """
    from safetensors import safe_open

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "tensors.safetensors"
        files = [str(path.resolve()), str(target), str(_SPARE)]
        command = [sys.executable, "-I", "-c", _READ_TORCH_FILE, *files]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            raise WeightsError(
                f"this torch file could not be read within {_TIMEOUT} seconds", where=path
            ) from None
        if done.returncode != 0 or not target.is_file():
            why = (done.stderr.strip().splitlines() or ["the process that reads it died"])[-1]
            raise WeightsError(
                "this torch file contains more than tensors, or is damaged",
                where=path,
                why=why[:300],
                hint="save only the tensors, as safetensors, and use that file",
            )
        tensors = _read_safetensors(target)
        with safe_open(target, "pt") as file:
            tied = file.metadata() or {}
        return tensors | {name: tensors[source] for name, source in tied.items()}


def _unwrap(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes that every name has because the network was wrapped when it was saved."""
    for prefix in ("module.", "_orig_mod.", "model.", "backbone."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def load_into(
    network: nn.Module, tensors: Mapping[str, Tensor], where: object, ignored: tuple[str, ...] = ()
) -> None:
    """Copy tensors into a network by name; it must get all of its tensors, in their shapes.

    Args:
        network: The network. Nothing changes if the tensors do not fit.
        tensors: Tensors by name. Those of top-level modules that the network lacks are ignored.
        where: The source, for error messages.
        ignored: Modules whose tensors may be superfluous (an old classifier).

    Raises:
        WeightsError: The tensors do not fit.
    """
    own = network.state_dict()
    modules = {name.split(".")[0] for name in own}
    prefixes = tuple(f"{module}." for module in ignored)
    missing = [name for name in own if name not in tensors]
    mismatched = [
        name for name in own if name in tensors and own[name].shape != tensors[name].shape
    ]
    unexpected = [
        name
        for name in tensors
        if name not in own and name.split(".")[0] in modules and not name.startswith(prefixes)
    ]
    for names, problem in (
        (mismatched, "of another shape"),
        (missing, "missing"),
        (unexpected, "unexpected"),
    ):
        if names:
            shapes = _shapes(names[0], own, tensors)
            raise WeightsError(
                "these weights do not fit this backbone",
                where=where,
                why=f"{counted(len(names), 'tensor is', 'tensors are')} {problem} (the network has "
                f"{len(own):,}), first {names[0]!r}{shapes}",
                hint="name the backbone that the file was made for with --backbone",
            )
    network.load_state_dict({name: tensors[name] for name in own})


def _shapes(name: str, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    if name not in own or name not in tensors:
        return ""
    return f": {tuple(tensors[name].shape)} in the file, {tuple(own[name].shape)} in the network"


def weights_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return a hexadecimal hash of names, types, shapes and bytes.

    Two are equal exactly if the tensors are.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(-1).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
