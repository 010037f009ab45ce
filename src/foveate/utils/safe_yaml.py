"""YAML as data: no tags that make objects, nothing that refers to itself and grows without end."""

from __future__ import annotations

from typing import Any

import yaml

_DEEPEST = 50  # a recipe has four levels
_OPENS = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSES = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


class _Whole(yaml.SafeDumper):
    """What occurs twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def written(content: Any) -> str:
    """Mappings, lists, words and numbers as YAML, in their order."""
    return str(yaml.dump(content, Dumper=_Whole, sort_keys=False, allow_unicode=True))


def plain(text: str) -> Any:
    """What a text of YAML, of which JSON is a part, says: mappings, lists, words and numbers. Raises ValueError with the reason."""
    try:
        _refuse_endless(text)
        return yaml.safe_load(text)
    except Exception as error:  # a tag with a wrong value makes the library raise nearly anything: KeyError, AttributeError, ...
        raise ValueError(str(error).replace("\n", " ")[:300] or type(error).__name__) from None


def _refuse_endless(text: str) -> None:
    """What costs more than its length: references, and brackets in brackets, which take the library the square of their number."""
    depth = 0
    for token in yaml.scan(text, yaml.SafeLoader):
        depth += isinstance(token, _OPENS) - isinstance(token, _CLOSES)
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
        if isinstance(token, yaml.AliasToken):
            raise ValueError(
                "it refers to parts of itself, which can grow without end: write &name and *name out"
            )
