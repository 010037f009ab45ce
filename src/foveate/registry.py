"""A shelf: a folder of plug-ins. Names are listed without importing anything; a file is loaded on first use.

The file name is the word that a user types. A shelf file defines exactly one concrete class that keeps the shelf's
contract. Other packages add to a shelf with an entry point in the group `foveate.<shelf>` (`my_lora = "pkg.mod"`).
"""

from __future__ import annotations

import importlib
import inspect
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

from foveate.errors import UnknownName, UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """The plug-ins of one folder, each a subclass of `contract`.

    `package` is the dotted name of the folder, `kind` the singular word for messages ("tuning"); `group`: the last part of the
    entry-point group, the name of the folder unless something else is said.
    """

    def __init__(self, package: str, contract: type[T], kind: str, group: str = "") -> None:
        self.package, self.contract, self.kind = package, contract, kind
        self.group = group or package.rsplit(".", 1)[1]

    def names(self) -> list[str]:
        """Every word this shelf answers to, sorted; nothing is imported."""
        return sorted({*self._files(), *self._outside()})

    def get(self, name: str) -> type[T]:
        """The class behind `name`; raises UnknownName with near names."""
        if name in self._files():
            module = importlib.import_module(f"{self.package}.{name}")
        elif name in (outside := self._outside()):
            module = importlib.import_module(outside[name])
        else:
            raise UnknownName(name, self.names(), kind=self.kind)
        return self._class_in(module)

    def create(self, name: str, settings: dict[str, Any], *args: Any) -> T:
        """The plug-in `name`, made with its own checked settings and `args`."""
        plugin: Any = self.get(name)
        return cast(T, plugin(checked_settings(plugin, name, self.kind, settings), *args))

    def _files(self) -> set[str]:
        spec = find_spec(self.package)
        folders = spec.submodule_search_locations or () if spec else ()
        files = (file for folder in folders for file in Path(folder).glob("*.py"))
        return {file.stem for file in files if not file.stem.startswith("_")}

    def _outside(self) -> dict[str, str]:
        return {point.name: point.value for point in entry_points(group=f"foveate.{self.group}")}

    def _class_in(self, module: ModuleType) -> type[T]:
        found = [
            member
            for member in vars(module).values()
            if inspect.isclass(member)
            and issubclass(member, self.contract)
            and not inspect.isabstract(member)
            and member.__module__ == module.__name__
        ]
        if len(found) != 1:
            raise UsageError(
                f"the {self.kind} file must define exactly one concrete {self.contract.__name__}, it defines {len(found)}",
                where=module.__name__,
            )
        return found[0]


def checked_settings(plugin: type, name: str, kind: str, settings: dict[str, Any]) -> Any:
    """`settings` as the plug-in's own pydantic `Settings`; an unknown or ill-typed one is a UsageError."""
    from pydantic import ValidationError

    try:
        return plugin.Settings(**settings)  # type: ignore[attr-defined]
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        known = list(plugin.Settings.model_fields)  # type: ignore[attr-defined]
        if first["type"] == "extra_forbidden":
            raise UnknownName(
                field, known, kind=f"setting of the {kind} {name!r}", where=f"{kind}.{field}"
            ) from None
        raise UsageError(f"{kind}.{field}: {first['msg']}", why=f"got {first['input']!r}") from None
