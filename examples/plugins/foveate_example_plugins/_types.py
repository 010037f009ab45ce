"""The prediction type that the task `grade` and the metric `grades` share."""

from __future__ import annotations

from foveate.predictions import Labels


class Grade(Labels):
    """A class out of an ordered list, such as the severity of a disease. The targets are Labels."""
