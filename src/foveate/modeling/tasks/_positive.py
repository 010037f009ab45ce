"""Which of two classes is the positive one, by their names."""

from __future__ import annotations

import re

from foveate.messages import Message
from foveate.types import Decision

_NEGATIVE = frozenset(
    {
        *("negative", "neg", "normal", "healthy", "benign", "control", "controls"),
        *("ok", "okay", "good", "intact", "clean", "background", "bg"),
        *("none", "nothing", "absent", "no", "false", "0"),
        *("正常", "健康", "阴性", "良好", "合格", "无"),
    }
)
_NEGATIONS = ("no", "non", "not", "without")


def choose_positive(classes: tuple[str, ...]) -> Decision:
    """Choose the positive one of two classes.

    Names such as normal, healthy or no_tumor are of the negative class; if that tells nothing, the
    second class is taken.
    """
    negative = [name for name in classes if _is_negative(name, classes)]
    if len(negative) == 1:
        (positive,) = (name for name in classes if name not in negative)
        text = "by its name, {negative} is the negative class"
        reason = Message("choice.negative_name", text, negative=repr(negative[0]))
        return Decision("positive", positive, reason)
    text = "the second class; the names do not tell: --set task.positive=NAME takes the other"
    return Decision("positive", classes[1], Message("choice.second_class", text))


def _is_negative(name: str, classes: tuple[str, ...]) -> bool:
    """Whether a name says that something is as it should be, or is not there."""
    folded = name.strip().casefold()
    others = {other.strip().casefold() for other in classes} - {folded}
    if any(folded == negation + other for negation in _NEGATIONS for other in others):
        return True
    words = [word for word in re.split(r"[\W_]+", folded) if word]
    if not words:
        return False
    if words[0] in _NEGATIONS and len(words) > 1:  # no_tumor, but not not_normal
        return not _NEGATIVE.intersection(words[1:])
    return folded in _NEGATIVE or words[0] in _NEGATIVE or words[-1] in _NEGATIVE
