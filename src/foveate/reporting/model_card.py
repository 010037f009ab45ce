"""The model card of a run: README.md, with the metadata that the Hugging Face Hub reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foveate.reporting.evaluation_page import EvaluationPage, describe_regions, images_of
from foveate.reporting.metric_names import metric_name
from foveate.utils.files import write_text
from foveate.version import __version__

_PIPELINES = {  # the Hub's names of tasks
    "classify": "image-classification",
    "detect": "object-detection",
    "segment": "image-segmentation",
    "caption": "image-to-text",
    "generate": "unconditional-image-generation",
}
_PRIVATE_FACTS = {"fact.data"}  # the path of the data: a card is made to be published
_USAGE = """```python
import foveate
foveate.predict("{name}", ["image.jpg"])
```"""


def write_model_card(page: EvaluationPage, task: str, backbone: str, path: Path) -> None:
    """Write the model card, complete or not at all.

    It tells what the run predicts, how well, on what data, what that does not tell, and the license
    of the weights.

    Args:
        page: The report of the run.
        task: Name of the task.
        backbone: Name of the backbone.
        path: File to write.
    """
    main = page.scores.numbers[page.scores.headline]
    has_interval = main.low is not None and main.high is not None
    interval = f" (95 % interval {main.low:.3f} to {main.high:.3f})" if has_interval else ""
    images = images_of(page.split, main)
    name = str(metric_name(page.scores.headline))
    headline = _sentence(f"{name} {main.value:.3f}{interval} on {images}")
    regions = describe_regions(page.scores)
    more = [_sentence(str(each)) for each in (regions, page.unlike) if each]
    facts = [(key, value) for key, value in page.facts if key.id not in _PRIVATE_FACTS]
    rows = [
        f"| {metric_name(key)} | {score.value:.4f} | {score.count} |"
        for key, score in page.scores.numbers.items()
    ]
    parts = [
        f"---\n{_metadata(page, task, backbone)}\n---",
        f"# {page.title}",
        " ".join(each for each in (str(page.question), headline, *more) if each),
        "## Model",
        "\n".join(["| | |", "|---|---|", *(f"| {key} | {_cell(str(v))} |" for key, v in facts)]),
        "## Scores",
        "\n".join(["| metric | value | images |", "|---|---|---|", *rows]),
        "## Limitations",
        "\n".join(f"- {_sentence(str(each))}" for each in page.cautions) or "None are known.",
        "## Usage",
        _USAGE.format(name=page.title),
        f"Made by `{page.command}` with Foveate {__version__}.",
    ]
    write_text(path, "\n\n".join(parts) + "\n")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


def _metadata(page: EvaluationPage, task: str, backbone: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=_PIPELINES.get(task, "other"),
            dataset_type="images",
            dataset_name=f"own images ({page.split})",
            metric_type=name,
            metric_value=round(score.value, 6),
            metric_name=str(metric_name(name)),
        )
        for name, score in page.scores.numbers.items()
    ]
    data = ModelCardData(
        library_name="foveate",
        pipeline_tag=_PIPELINES.get(task, "other"),
        tags=["foveate", task, backbone],
        metrics=[page.scores.main],
        model_name=page.title,
        eval_results=results,
        **_license_metadata(page.license),
    )
    return data.to_yaml()


def _license_metadata(license: str) -> dict[str, Any]:
    if not license or " " in license:
        return {"license": "other", "license_name": license or "not stated"}
    return {"license": license.lower()}
