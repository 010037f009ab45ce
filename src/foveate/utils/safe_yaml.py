"""YAML as data: no tags that create objects, and no references that can grow without end."""

from __future__ import annotations

from typing import Any

import yaml

_MAX_DEPTH = 50  # a recipe has four levels
_OPENS = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSES = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


class _Dumper(yaml.SafeDumper):
    """Writes an object that occurs twice twice, instead of a reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(content: Any) -> str:
    """Return mappings, lists, strings and numbers as YAML, in their order."""
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def parse_yaml(text: str) -> Any:
    """Parse YAML, or JSON, into mappings, lists, strings and numbers.

    Raises:
        ValueError: The text is not YAML, or holds tags or references.
    """
    try:
        _refuse_explosions(text)
        return yaml.safe_load(text)
    except Exception as error:
        # a tag with a wrong value makes the library raise nearly anything: KeyError, AttributeError
        raise ValueError(str(error).replace("\n", " ")[:300] or type(error).__name__) from None


def _refuse_explosions(text: str) -> None:
    """Refuse what costs more than its length.

    These are references, and nested brackets, which cost the library the square of their number.
    """
    depth = 0
    for token in yaml.scan(text, yaml.SafeLoader):
        depth += isinstance(token, _OPENS) - isinstance(token, _CLOSES)
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
        if isinstance(token, yaml.AliasToken):
            raise ValueError("it has references, which can grow without end: write &name out")
