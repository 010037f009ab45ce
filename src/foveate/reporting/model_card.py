"""The model card of a run: README.md, with the block of metadata that the Hugging Face Hub reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foveate.reporting.pages import EvaluationPage, said
from foveate.utils.files import write_text
from foveate.version import __version__

_PIPELINES = {  # the Hub's names of tasks
    "classify": "image-classification",
    "detect": "object-detection",
    "segment": "image-segmentation",
    "caption": "image-to-text",
    "generate": "unconditional-image-generation",
}
_USE = """```python
import foveate
foveate.predict("{name}", ["picture.jpg"])
```"""


def write_model_card(page: EvaluationPage, task: str, backbone: str, path: Path) -> None:
    """Writes `path`: what the run answers, how well, on what, what that cannot promise, and whose weights it holds."""
    main = page.scores.numbers[page.scores.main]
    interval = "" if main.low is None else f" (95 % interval {main.low:.3f} to {main.high:.3f})"
    facts = [f"| {name} | {_cell(value)} |" for name, value in page.facts if name != "data"]
    rows = [
        f"| {said(name)} | {score.value:.4f} | {score.count} |"
        for name, score in page.scores.numbers.items()
    ]
    parts = [
        f"---\n{_metadata(page, task, backbone)}\n---",
        f"# {page.title}",
        f"{page.asks} {said(page.scores.main).capitalize()} {main.value:.3f}{interval} on {main.count} {page.split} images.",
        "## What it is",
        "\n".join(["| | |", "|---|---|", *facts]),
        "## How well it does",
        "\n".join(["| number | value | images |", "|---|---|---|", *rows]),
        "## What these figures cannot promise",
        "\n".join(f"- {caution}" for caution in page.cautions) or "Nothing stands out.",
        "## How to use it",
        _USE.format(name=page.title),
        f"Made by `{page.command}` with Foveate {__version__}.",
    ]
    write_text(path, "\n\n".join(parts) + "\n")


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


def _metadata(page: EvaluationPage, task: str, backbone: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        _result(page, name, score.value, task) for name, score in page.scores.numbers.items()
    ]
    licence = dict(page.facts).get("licence of the weights", "not stated")
    known: dict[str, Any] = (
        {"license": licence.lower()}
        if " " not in licence
        else {"license": "other", "license_name": licence}
    )
    data = ModelCardData(
        library_name="foveate",
        pipeline_tag=_PIPELINES.get(task, "other"),
        tags=["foveate", task, backbone],
        metrics=[page.scores.main],
        model_name=page.title,
        eval_results=[EvalResult(**row) for row in results],
        **known,
    )
    return data.to_yaml()


def _result(page: EvaluationPage, name: str, value: float, task: str) -> dict[str, Any]:
    about = {
        "task_type": _PIPELINES.get(task, "other"),
        "dataset_type": "images",
        "dataset_name": f"own images ({page.split})",
    }
    return {
        **about,
        "metric_type": name,
        "metric_value": round(value, 6),
        "metric_name": said(name),
    }
