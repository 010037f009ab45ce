"""Registries of plug-ins: a folder of modules, each with one class.

The name of the file is the name that a user types. Names are listed without importing anything; a
module is imported on first use, and defines exactly one concrete subclass of the base class.

Other packages add plug-ins by entry points, whose name is that of the plug-in, and whose value is
its module:

    [project.entry-points."foveate.tunings"]
    my_lora = "my_package.my_lora"

The groups are foveate.backbones, decoders, detectors, tasks, tunings, objectives, adaptations
(test-time methods), formats, metrics, explainers, exporters and postprocessors.
"""

from __future__ import annotations

import importlib
import inspect
import re
from contextlib import suppress
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

from foveate.errors import FoveateError, UnknownName, UsageError

T = TypeVar("T")

_PREFIXES = {"objective": "task.", "adaptation": ""}
"""What users write before the name of a setting, where it is not the kind of the plug-in."""


class Registry(Generic[T]):
    """The plug-ins of one folder.

    Args:
        package: Dotted name of the folder.
        contract: Base class of the plug-ins.
        kind: What a plug-in is, in the singular, for messages: "tuning".
        group: Last part of the entry-point group; by default the name of the folder.
    """

    def __init__(self, package: str, contract: type[T], kind: str, group: str = "") -> None:
        self.package, self.contract, self.kind = package, contract, kind
        self.group = group or package.rsplit(".", 1)[1]

    def names(self) -> list[str]:
        """Return the names of all plug-ins, sorted; nothing is imported."""
        return sorted({*self._files(), *self._entry_points()})

    def stating(self, attribute: str) -> list[str]:
        """Return the names of the plug-ins that set an attribute of their class, sorted.

        Nothing is imported: their sources are read, because a help page has to be quick.
        """
        assignment = re.compile(rf"^    {attribute}\b.* = ", re.MULTILINE)
        sources = {**self._files(), **self._sources_of_entry_points()}
        texts = {name: file.read_text(encoding="utf-8") for name, file in sources.items()}
        return sorted(name for name, text in texts.items() if assignment.search(text))

    def get(self, name: str) -> type[T]:
        """Return the class of a plug-in.

        Raises:
            UnknownName: There is none of this name.
        """
        if name in self._files():
            module = importlib.import_module(f"{self.package}.{name}")
        elif name in (modules := self._entry_points()):
            module = importlib.import_module(modules[name])
        else:
            raise UnknownName(name, self.names(), kind=self.kind)
        return self._class_in(module)

    def create(self, name: str, settings: dict[str, Any], *args: Any) -> T:
        """Create a plug-in.

        Args:
            name: Its name.
            settings: Its own settings, which are validated.
            *args: Further arguments of its class.

        Raises:
            UnknownName: There is no plug-in or no setting of a name.
            UsageError: The value of a setting is invalid.
        """
        plugin: Any = self.get(name)
        return cast(T, plugin(self.validate(name, settings), *args))

    def validate(self, name: str, settings: dict[str, Any]) -> Any:
        """Return the settings of a plug-in as an object of its pydantic class `Settings`.

        Raises:
            UnknownName: There is no plug-in or no setting of a name.
            UsageError: The value of a setting is invalid.
        """
        from pydantic import ValidationError

        from foveate.utils.validation import validation_error

        model: Any = self.get(name).Settings  # type: ignore[attr-defined]
        try:
            return model(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "extra_forbidden" and not model.model_fields:
                raise self._no_settings(name, str(first["loc"][0])) from None
            kind = f"setting of the {self.kind} {name!r}"
            raise validation_error(error, model, kind=kind, prefix=self._prefix) from None

    @property
    def _prefix(self) -> str:
        """What users write before the name of a setting: "tuning."."""
        return _PREFIXES.get(self.kind, f"{self.kind}.")

    def _no_settings(self, name: str, setting: str) -> UsageError:
        """The error for a setting of a plug-in that has none, with the plug-ins that have it."""
        what, where = f"the {self.kind} {name!r} has no settings", f"{self._prefix}{setting}"
        fitting = []
        for other in self.names():
            with suppress(ImportError, FoveateError):
                plugin: Any = self.get(other)
                if setting in plugin.Settings.model_fields:
                    fitting.append(other)
        plural = f"the {self.kind}s" if len(fitting) > 1 else f"the {self.kind}"
        hint = f"{plural} {', '.join(fitting)} {'have' if len(fitting) > 1 else 'has'} {setting!r}"
        return UsageError(what, where=where, hint=hint if fitting else "leave it out")

    def _files(self) -> dict[str, Path]:
        spec = find_spec(self.package)
        folders = spec.submodule_search_locations or () if spec else ()
        files = (file for folder in folders for file in Path(folder).glob("*.py"))
        return {file.stem: file for file in files if not file.stem.startswith("_")}

    def _sources_of_entry_points(self) -> dict[str, Path]:
        specs = {name: find_spec(module) for name, module in self._entry_points().items()}
        return {name: Path(spec.origin) for name, spec in specs.items() if spec and spec.origin}

    def _entry_points(self) -> dict[str, str]:
        return {point.name: point.value for point in entry_points(group=f"foveate.{self.group}")}

    def _class_in(self, module: ModuleType) -> type[T]:
        classes = [
            member
            for member in vars(module).values()
            if inspect.isclass(member)
            and issubclass(member, self.contract)
            and not inspect.isabstract(member)
            and member.__module__ == module.__name__
        ]
        if len(classes) != 1:
            raise UsageError(
                f"a {self.kind} module must define exactly one concrete subclass of "
                f"{self.contract.__name__}, it defines {len(classes)}",
                where=module.__name__,
            )
        return classes[0]
