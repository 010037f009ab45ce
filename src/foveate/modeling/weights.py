"""Weight files without code in them: safetensors as they are, torch files through weights_only in a process of their own."""

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

from foveate.errors import UsageError, WeightsError
from foveate.utils.paths import did_you_mean_path

if TYPE_CHECKING:
    from torch import Tensor, nn

_HEADER_LIMIT = (
    4_000_000  # bytes: 30,000 tensors; the format allows 100 MB, which take a gigabyte to read
)
_SECONDS = 600  # for the reading process
_READ_TORCH_FILE = """
import sys, torch
from safetensors.torch import save_file
content = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
for word in ("state_dict", "model_state_dict", "model", "teacher", "student"):
    if isinstance(content, dict) and isinstance(content.get(word), dict):
        content = content[word]
tensors = {str(name): value.detach().contiguous().clone() for name, value in content.items() if isinstance(value, torch.Tensor)}
save_file(tensors, sys.argv[2])
"""


def read_tensors(path: Path, verbatim: bool = False) -> dict[str, Tensor]:
    """The tensors in a .safetensors, .pt, .pth or .bin file, by name; wrappers ('module.', 'state_dict') are taken off, but not in
    a file of our `own`, where a run may have trained nothing beside its backbone.

    Raises UsageError when the path or its ending is wrong, WeightsError when the file is damaged or holds code.
    """
    if not path.is_file():
        raise UsageError(
            "there is no weights file at this path", where=path, hint=did_you_mean_path(path)
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path) if verbatim else _unwrapped(_read_safetensors(path))
    if path.suffix in (".pt", ".pth", ".bin"):
        return _unwrapped(_read_torch(path))
    raise UsageError(
        "this is no weights file", where=path, hint="one of: .safetensors, .pt, .pth, .bin"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _check_header(path)
    try:
        return dict(load_file(path))
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError("this safetensors file is damaged", where=path, why=str(error)) from None


def _check_header(path: Path) -> None:
    """Refuses a header that is longer than the file, is no JSON, or says a name twice, before anything is allocated."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, _HEADER_LIMIT):
            raise WeightsError(
                "this safetensors file is damaged",
                where=path,
                why="its header is longer than it can be",
            )
        header = file.read(length)
    try:
        json.loads(header, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise WeightsError(
            "this safetensors file is damaged", where=path, why=f"its header: {error}"
        ) from None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name occurs twice")
    return content


def _read_torch(path: Path) -> dict[str, Tensor]:
    """A torch file is a pickle: another process opens it, allows tensors only, and hands over safetensors."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "tensors.safetensors"
        command = [sys.executable, "-I", "-c", _READ_TORCH_FILE, str(path.resolve()), str(target)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise WeightsError("this torch file takes too long to read", where=path) from None
        if done.returncode != 0 or not target.is_file():
            why = (done.stderr.strip().splitlines() or ["the reading process died"])[-1]
            hint = "save the tensors alone as safetensors, and give that file"
            raise WeightsError(
                "this torch file holds more than tensors, or is damaged",
                where=path,
                why=why[:300],
                hint=hint,
            )
        return _read_safetensors(target)


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Takes off prefixes that every name carries because the network was wrapped when it was saved."""
    for prefix in ("module.", "_orig_mod.", "model.", "backbone."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def load_into(
    network: nn.Module, tensors: Mapping[str, Tensor], where: object, ignored: tuple[str, ...] = ()
) -> None:
    """Copies `tensors` into the network by name; every tensor of the network must be there with its shape.

    Tensors under the names `spare` (an old classifier), and those of parts that the network lacks altogether, are left out.
    Raises WeightsError and changes nothing when the rest does not fit.
    """
    own = network.state_dict()
    parts = {name.split(".")[0] for name in own}
    missing = [name for name in own if name not in tensors]
    bent = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    extra = [
        name
        for name in tensors
        if name not in own
        and name.split(".")[0] in parts
        and not name.startswith(tuple(f"{word}." for word in ignored))
    ]
    for found, what in (
        (bent, "another shape"),
        (missing, "no such tensor"),
        (extra, "a tensor too many"),
    ):
        if found:
            raise WeightsError(
                "these weights do not fit this backbone",
                where=where,
                why=f"{len(found)} of {len(own)} tensors: {what}, first {found[0]!r}"
                + _shapes(found[0], own, tensors),
                hint="name the backbone that the file was made for with --backbone",
            )
    network.load_state_dict({name: tensors[name] for name in own})


def _shapes(name: str, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    if name not in own or name not in tensors:
        return ""
    return (
        f" is {tuple(tensors[name].shape)} in the file and {tuple(own[name].shape)} in the network"
    )


def weights_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, types, shapes and bytes, hexadecimal: equal exactly when the tensors are equal."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(-1).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
