"""What the user asked for. Every field is documented beside itself with its unit; --help and the docs read these lines.

A recipe is written to `recipe.yaml` in the run folder with everything decided, and reruns the run: foveate fit --recipe FILE.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from foveate.errors import UnknownName, UsageError
from foveate.utils.safe_yaml import plain, written


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class PluginChoice(BaseModel):
    """A name on a shelf and the settings that this shelf file declares for itself (checked there)."""

    model_config = ConfigDict(extra="allow", validate_assignment=True)
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class DataRecipe(Section):
    path: str = Field("", description="folder of images or a table of paths and labels")
    format: str = Field(
        "auto", description="how the data lies on disk; auto looks and says what it found"
    )
    val: float = Field(
        0.15, ge=0, lt=1, description="share of images for validation when the data names no split"
    )
    test: float = Field(
        0.15,
        ge=0,
        lt=1,
        description="share of images for the final test when the data names no split",
    )
    near_duplicates: float = Field(
        0.97,
        gt=0,
        le=1,
        description="likeness (0 to 1) from which pictures count as near-copies and stay in one split; 1 = off",
    )
    shots: int | None = Field(
        None,
        ge=1,
        description="train on so many images of each class, drawn with the seed; default: on all",
    )
    strict: bool = Field(
        False,
        description="stop at the first image that cannot be read, instead of skipping and naming it",
    )
    workers: int | None = Field(
        None,
        ge=0,
        description="loader processes; 0 reads in the main process; default: some beside a GPU",
    )
    keep_pixels: bool = Field(
        True,
        description="keep decoded pictures between epochs: up to a quarter of the memory there, the rest in a file on disk",
    )
    audit: bool = Field(
        True, description="measure how much a random split would flatter, where near-copies exist"
    )


class BackboneRecipe(Section):
    name: str = Field("tf_efficientnet_lite0", description="backbone; foveate models lists them")
    weights: str = Field(
        "auto",
        description="auto (offline package if installed, else hub), hub, offline, none (random), or a .safetensors/.pt file",
    )
    size: int | None = Field(
        None,
        ge=16,
        description="side of the square the network sees, px; default: the backbone's own",
    )


class TrainingRecipe(Section):
    epochs: int = Field(15, ge=1, description="passes over the training images")
    minutes: float | None = Field(
        None, gt=0, description="time budget, minutes; epochs are cut to fit it"
    )
    batch_size: int = Field(32, ge=1, description="images per optimiser step")
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="images on the device at once; the rest is accumulated; default: batch_size",
    )
    optimizer: Literal["adamw", "adam", "sgd"] = Field("adamw", description="optimiser")
    lr: float = Field(
        1e-3, gt=0, description="peak learning rate of the head and of the last blocks"
    )
    layer_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="learning-rate factor per block towards the input (12 steps at most); default: 0.75 where the head is solved or there is no batch normalisation, 1 else and for random weights",
    )
    weight_decay: float = Field(
        0.05,
        ge=0,
        description="decoupled decay for adamw, L2 penalty for adam and sgd; not on biases and norms",
    )
    l2_sp: float = Field(
        0.0,
        ge=0,
        description="pull of the backbone's moving weights towards where they began, in the place of weight_decay (L2-SP, Li et al. 2018); 0 = off",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    warmup: float = Field(
        0.1, ge=0, lt=1, description="share of the steps over which the rate climbs linearly"
    )
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="how the learning rate falls after warm-up"
    )
    clip: float = Field(1.0, ge=0, description="largest gradient norm; 0 = off")
    ema: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="decay of the running average of the weights that is kept; 0 = off",
    )
    head_start: Literal["probe", "random"] = Field(
        "probe",
        description="the head's first weights: solved on the frozen backbone's features (LP-FT, Kumar et al. 2022), or random",
    )
    head_epochs: int = Field(
        0,
        ge=0,
        description="first epochs in which the head alone moves, so that its random beginning does not disturb the backbone",
    )
    checkpointing: bool = Field(
        False,
        description="compute activations again in the backward pass instead of keeping them: less memory, more time",
    )
    patience: int = Field(
        8,
        ge=0,
        description="stop after so many epochs without a better validation score; 0 = never",
    )
    norm: Literal["auto", "keep", "learn"] = Field(
        "auto",
        description="statistics of batch normalisation where it moves: keep the pretrained ones, or learn new ones; auto keeps them, but learns those of random weights",
    )
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="stochastic depth in the backbone, where it has it"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic; auto times a few steps of each"
    )
    channels_last: bool | None = Field(
        None, description="memory format of images; default: measured together with precision"
    )
    save_minutes: float = Field(
        10.0,
        gt=0,
        description="minutes between checkpoints inside an epoch; every epoch's end saves too",
    )
    bad_steps: int = Field(
        5,
        ge=1,
        description="stop after so many steps in a row with a loss or gradient that is not finite",
    )
    tensorboard: bool = Field(False, description="write TensorBoard logs into the run folder")


class AugmentRecipe(Section):
    policy: Literal["auto", "trivial", "rand", "none"] = Field(
        "auto",
        description="TrivialAugment, RandAugment, or none; auto: TrivialAugment from 1,000 steps of training",
    )
    crop: float = Field(
        0.6,
        gt=0,
        le=1,
        description="smallest share of the area that a random crop keeps; 1 = no random crop",
    )
    flip: float = Field(
        0.5, ge=0, le=1, description="chance of a left-right flip; 0 where sides have a meaning"
    )
    flip_vertical: float = Field(
        0.0,
        ge=0,
        le=1,
        description="chance of an upside-down flip; for pictures without an up, such as microscopy",
    )
    color: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="largest random change of brightness, contrast and saturation, share of each",
    )
    rotate: float = Field(0.0, ge=0, le=180, description="largest random rotation, degrees")
    scale: float = Field(
        0.0, ge=0, lt=1, description="largest random zoom in or out, share of the size"
    )
    erase: float = Field(0.0, ge=0, le=1, description="chance of blanking a random rectangle")
    mosaic: float = Field(
        0.0,
        ge=0,
        le=1,
        description="chance of joining a picture with three others in one square; boxes and masks go along",
    )
    mixup: float = Field(0.0, ge=0, description="alpha of mixup; 0 = off")
    cutmix: float = Field(0.0, ge=0, description="alpha of cutmix; 0 = off")


class StartRecipe(Section):
    run: str = Field(
        "",
        description="a finished run to go on from: its weights, its classes and its images; empty = none (foveate continue)",
    )
    replay: float = Field(
        1.0, ge=0, le=1, description="share of that run's training images that are shown again"
    )
    distill: float = Field(
        0.0,
        ge=0,
        description="weight of staying with that run's answers to the new images (learning without forgetting, Li & Hoiem 2016); 0 = off",
    )
    temperature: float = Field(2.0, gt=0, description="of the answers that are compared")


class Recipe(Section):
    data: DataRecipe = Field(default_factory=DataRecipe)
    task: PluginChoice = Field(
        default_factory=lambda: PluginChoice(name="auto"),
        description="what is asked; auto reads it off the labels",
    )
    backbone: BackboneRecipe = Field(default_factory=BackboneRecipe)
    tuning: PluginChoice = Field(
        default_factory=lambda: PluginChoice(name="default"),
        description="which weights move, and how; default = probe for classes, full for boxes and masks; auto = the ladder: from the cheapest on, as long as it pays",
    )
    training: TrainingRecipe = Field(default_factory=TrainingRecipe)
    augment: AugmentRecipe = Field(default_factory=AugmentRecipe)
    start: StartRecipe = Field(default_factory=StartRecipe)
    seed: int = Field(0, ge=0, description="seed of every random choice")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    lang: Literal["en", "zh"] = Field("en", description="language of reports: en, zh")

    def stated(self, dotted: str) -> bool:
        """Whether a field was set, by the user or by a decision, or still has its general default."""
        section: Any = self
        for part in dotted.split("."):
            if part not in section.model_fields_set:
                return False
            section = getattr(section, part)
        return not (isinstance(section, PluginChoice) and section.name == "default")

    def to_yaml(self, stated: bool = False) -> str:
        """All fields; or those alone that are `stated`, where each of several fits decides the rest for itself."""
        return written(self.model_dump(mode="json", exclude_unset=stated))


SHORT_OPTIONS = {
    "format": "data.format",
    "shots": "data.shots",
    "strict": "data.strict",
    "task": "task",
    "backbone": "backbone.name",
    "weights": "backbone.weights",
    "size": "backbone.size",
    "tuning": "tuning",
    "epochs": "training.epochs",
    "minutes": "training.minutes",
    "batch_size": "training.batch_size",
    "optimizer": "training.optimizer",
    "lr": "training.lr",
    "tensorboard": "training.tensorboard",
    "seed": "seed",
    "device": "device",
    "lang": "lang",
}
"""The short option names of the command line and of Python, and the field that each one sets."""

CONTINUE_OPTIONS = {"replay": "start.replay", "distill": "start.distill", **SHORT_OPTIONS}
"""Those of `foveate continue`."""


def field_of(dotted: str) -> tuple[Any, str]:
    """The annotation and the description of a dotted field: the words of --help come from here."""
    model: Any = Recipe
    *sections, last = dotted.split(".")
    for section in sections:
        model = model.model_fields[section].annotation
    return model.model_fields[last].annotation, model.model_fields[last].description or ""


def default_of(dotted: str) -> Any:
    """The value of a dotted field in a recipe that nobody touched."""
    value: Any = Recipe()
    for part in dotted.split("."):
        value = getattr(value, part)
    return value.name if isinstance(value, PluginChoice) else value


def recipe_from(
    data: object,
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    base: Recipe | None = None,
    names: Mapping[str, str] = SHORT_OPTIONS,
) -> Recipe:
    """Build a recipe from what the user set.

    Args:
        data: Path of the data; None leaves that of `base`.
        options: Values by short option name.
        settings: Values by dotted field name; they override `options`.
        base: Recipe to start from; all defaults if None.
        names: Short option names and the fields that they set.

    Raises:
        UnknownName: There is no such option or field.
        UsageError: A value is invalid.
    """
    unknown = [option for option in options if option not in names]
    if unknown:
        raise UnknownName(unknown[0], names, kind="option")
    assigned = {names[option]: value for option, value in options.items()}
    if data is not None:
        assigned["data.path"] = str(data)
    return with_settings(base or Recipe(), {**assigned, **settings})


def load_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file; raises UsageError with the field and the near names."""
    if not path.is_file():
        raise UsageError("there is no recipe file at this path", where=path)
    try:
        content = plain(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UsageError("this recipe is not plain YAML", where=path, why=str(error)) from None
    if not isinstance(content, dict):
        raise UsageError(
            "a recipe is a mapping of sections", where=path, hint="start from a run's recipe.yaml"
        )
    return _validated(content, where=path)


def with_settings(recipe: Recipe, assignments: dict[str, Any]) -> Recipe:
    """A copy with dotted fields replaced: {'training.ema': 0, 'tuning.rank': 8, 'tuning': 'lora'}.

    Changing the name of a choice drops the settings of the old one.
    """
    content = recipe.model_dump(exclude_unset=True)
    for dotted, value in sorted(assignments.items(), key=lambda item: item[0].count(".")):
        _assign(content, dotted, value)
    return _validated(content)


def with_suggestions(
    recipe: Recipe, suggestions: dict[str, tuple[Any, str]]
) -> tuple[Recipe, list[tuple[str, Any, str]]]:
    """The recipe with what is suggested, a value and its reason, for dotted fields that nobody stated; and what was taken of it."""
    taken = [
        (field, value, reason)
        for field, (value, reason) in suggestions.items()
        if not recipe.stated(field)
    ]
    return with_settings(recipe, {field: value for field, value, _ in taken}), taken


def parse_assignment(text: str) -> tuple[str, Any]:
    """'training.ema=0' -> ('training.ema', 0); the value is read as YAML data."""
    dotted, equals, value = text.partition("=")
    if not equals or not dotted:
        raise UsageError(f"--set wants field=value, got {text!r}", hint="--set training.ema=0")
    try:
        return dotted.strip(), plain(value)
    except ValueError:
        raise UsageError(f"--set {dotted}: the value is not YAML", why=f"got {value!r}") from None


def _assign(content: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, last = dotted.split(".")
    place: dict[str, Any] = content
    model: Any = Recipe
    for section in sections:
        place, model = _step_into(place, model, section, dotted)
    if (
        model is Recipe
        and model.model_fields.get(last)
        and model.model_fields[last].annotation is PluginChoice
    ):
        if isinstance(value, str):
            value = place[last] if place.get(last, {}).get("name") == value else {"name": value}
    elif model is not PluginChoice and last not in model.model_fields:
        raise UnknownName(last, model.model_fields, kind="field", where=dotted)
    place[last] = value


def _step_into(
    place: dict[str, Any], model: Any, section: str, dotted: str
) -> tuple[dict[str, Any], Any]:
    if section not in model.model_fields:
        raise UnknownName(section, model.model_fields, kind="section of the recipe", where=dotted)
    inner = model.model_fields[section].annotation
    if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
        raise UsageError(f"{section} has no fields of its own", where=dotted)
    return place.setdefault(
        section, {"name": default_of(section)} if inner is PluginChoice else {}
    ), inner


def _validated(content: dict[str, Any], where: object = None) -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            known = _fields_at(parts[:-1])
            raise UnknownName(
                parts[-1], known, kind="field", where=where or ".".join(parts)
            ) from None
        raise UsageError(
            f"{'.'.join(parts)}: {first['msg']}", where=where, why=f"got {first['input']!r}"[:300]
        ) from None


def _fields_at(sections: list[str]) -> list[str]:
    model: Any = Recipe
    for section in sections:
        model = model.model_fields[section].annotation
    return list(model.model_fields)
