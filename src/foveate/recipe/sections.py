"""A recipe: all settings of a run.

Each field is documented beside itself, with its unit; `--help` and the documentation are made from
these descriptions. A recipe is written to `recipe.yaml` in the run folder with all defaults
resolved, and `foveate fit --recipe FILE` repeats the run.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from foveate.utils.class_groups import ClassGroups
from foveate.utils.safe_yaml import to_yaml

MAX_SIZE = 8192
"""Greatest side of an input, px: more is a slip, and fills the memory with one image."""
MAX_BANDS = 256
"""Most channels of an image: more than sensors have."""


class RecipeSection(BaseModel):
    """A group of fields; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)


class PluginChoice(BaseModel):
    """The name of a plug-in, and its own settings, which the plug-in checks."""

    model_config = ConfigDict(extra="allow", validate_assignment=True)
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """The settings without the name."""
        return dict(self.model_extra or {})


class DataRecipe(RecipeSection):
    """The dataset, its splits, and how it is read."""

    path: str = Field("", description="dataset: a folder or a table")
    format: str = Field("auto", description="dataset format; auto detects and reports it")
    column: str = Field(
        "", description="column of a table with the labels or numbers; default: found by its name"
    )
    classes: ClassGroups = Field(
        None,
        description="classes to keep, merge and rename: {new: [old, old], ...}, or a list of those "
        "to keep; all others are left out",
    )
    val: float = Field(
        0.15, ge=0, lt=1, description="fraction of images for validation, if the data have no split"
    )
    test: float = Field(
        0.15,
        ge=0,
        lt=1,
        description="fraction of images for the final test, if the data have no split",
    )
    near_duplicates: float = Field(
        0.97,
        gt=0,
        le=1,
        description="similarity (0 to 1) from which images count as near-copies and stay in one "
        "split; 1 = off, for copies by name and sequences, too",
    )
    group: str = Field(
        "auto",
        description="column whose images stay in one split; none; or auto: group, patient_id, ...",
    )
    shots: int | None = Field(
        None,
        ge=1,
        description="training images per class, drawn with the seed; default: all",
    )
    bands: list[Annotated[int, Field(ge=1)]] = Field(
        [],
        max_length=MAX_BANDS,
        description="bands of a TIFF, from 1, that are red, green and blue, or the one that is "
        "gray; two, or more than three, are channels of their own, for which the first layer of "
        "the backbone is widened; default: the first three",
    )
    value_range: tuple[float, float] | None = Field(
        None,
        description="values that become black and white, for images of more than 8 bits; default: "
        "the whole range of 16 bits, and of other types that of each image",
    )
    allow_outside: bool = Field(
        False, description="read images that the data name outside of their folder"
    )
    bits: Literal[8, 16] = Field(
        8,
        description="bits of each channel that the network sees: 8, or 16 for more than 256 levels "
        "of images that have them; default: 16 where they have",
    )
    mean: list[float] = Field(
        [],
        description="mean of each channel, with black at 0 and white at 1, that is subtracted; "
        "default: that of the backbone; of other channels than three that of the training images",
    )
    std: list[Annotated[float, Field(gt=0)]] = Field(
        [],
        description="standard deviation of each channel, by which is divided; default: as for mean",
    )
    strict: bool = Field(
        False,
        description="stop at the first unreadable image instead of skipping and reporting it",
    )
    workers: int | None = Field(
        None,
        ge=0,
        description="data loading processes; 0 = in the main process; default: several with a GPU, "
        "else 0",
    )
    cache_images: bool = Field(
        True,
        description="keep decoded images between epochs: in memory up to a quarter of it, the rest "
        "in a file on disk",
    )
    leakage_audit: bool = Field(
        True,
        description="measure how much a random split would overestimate accuracy, if there are "
        "near-duplicates, and how far accuracy could fall on unlike images",
    )


class BackboneRecipe(RecipeSection):
    """The pretrained network."""

    name: str = Field(
        "tf_efficientnet_lite0", description="backbone; `foveate models` lists the names"
    )
    weights: str = Field(
        "auto",
        description="pretrained weights: auto (offline package if installed, else hub), hub, "
        "offline, none (random), or a .safetensors or .pt file",
    )
    size: int | None = Field(
        None,
        ge=16,
        le=MAX_SIZE,
        description="input size: side of the square, px; default: the backbone's own",
    )


class TrainingRecipe(RecipeSection):
    """Optimization, and how it is computed and saved."""

    epochs: int = Field(15, ge=1, description="passes over the training images")
    minutes: float | None = Field(
        None,
        gt=0,
        description="time budget for all that the command does, minutes; it decides how long to "
        "train, for at most `epochs` where these are set",
    )
    batch_size: int = Field(32, ge=1, description="images per optimizer step")
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="images per forward pass, with gradient accumulation; default: batch_size, or "
        "for boxes as many as eight of 512 px have pixels",
    )
    optimizer: Literal["adamw", "adam", "sgd"] = Field(
        "adamw", description="optimizer: adamw, adam or sgd"
    )
    lr: float = Field(
        1e-3, gt=0, description="peak learning rate, of the head and the last backbone blocks"
    )
    layer_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="learning rate factor per block towards the input (at most 12 times); default: "
        "0.75 with a fitted head or without batch normalization, else (and for random weights) 1",
    )
    weight_decay: float = Field(
        0.05,
        ge=0,
        description="weight decay: decoupled for adamw, L2 penalty for adam and sgd; not applied "
        "to biases and normalization",
    )
    l2_sp: float = Field(
        0.0,
        ge=0,
        description="L2 penalty towards the initial backbone weights; replaces weight_decay for "
        "the backbone (L2-SP, Li et al. 2018); 0 = off",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    warmup: float = Field(
        0.1, ge=0, lt=1, description="fraction of the steps with linear learning rate warm-up"
    )
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="learning rate schedule after the warm-up: cosine or constant"
    )
    clip_norm: float = Field(1.0, ge=0, description="maximum gradient norm; 0 = no clipping")
    ema: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="decay of the exponential moving average of the weights; 0 = off",
    )
    head_init: Literal["probe", "random"] = Field(
        "probe",
        description="initialization of the head: probe (fitted to frozen features; LP-FT, Kumar et "
        "al. 2022) or random",
    )
    head_epochs: int = Field(
        0,
        ge=0,
        description="initial epochs with a frozen backbone, so that a random head does not harm it",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="recompute activations in the backward pass: less memory, more time",
    )
    patience: int = Field(
        8,
        ge=0,
        description="early-stopping patience, epochs (validations with `minutes`); 0 = off",
    )
    batch_norm: Literal["auto", "keep", "learn"] = Field(
        "auto",
        description="batch normalization statistics of the trainable part: keep the pretrained "
        "ones, or learn new ones; auto keeps them, except for random weights",
    )
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="stochastic depth rate of the backbone, if it supports it"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic: fp32 or bf16; auto times a few steps of each"
    )
    channels_last: bool | None = Field(
        None,
        description="use the channels-last memory format; default: measured, as is precision",
    )
    checkpoint_minutes: float = Field(
        10.0,
        gt=0,
        description="minutes between checkpoints within an epoch; each epoch ends with one, too",
    )
    max_bad_steps: int = Field(
        5,
        ge=1,
        description="consecutive steps with a NaN or infinite loss or gradient that stop training",
    )
    tensorboard: bool = Field(False, description="write TensorBoard logs to the run folder")


class AugmentRecipe(RecipeSection):
    """Random changes of training images."""

    policy: Literal["auto", "trivial", "rand", "none"] = Field(
        "auto",
        description="augmentation policy: trivial (TrivialAugment), rand (RandAugment) or none; "
        "auto: TrivialAugment from 1,000 training steps",
    )
    crop: float = Field(
        0.6, gt=0, le=1, description="minimum area fraction of random crops; 1 = no random crop"
    )
    flip: float = Field(
        0.5,
        ge=0,
        le=1,
        description="probability of a horizontal flip; use 0 if left and right differ in meaning",
    )
    flip_vertical: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability of a vertical flip, for images without an up, such as microscopy",
    )
    color: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="color jitter: maximum relative change of brightness, contrast and saturation",
    )
    rotate: float = Field(0.0, ge=0, le=180, description="maximum rotation, degrees")
    scale: float = Field(
        0.0, ge=0, lt=1, description="maximum zoom in or out, as a fraction of the size"
    )
    erase: float = Field(0.0, ge=0, le=1, description="probability of random erasing")
    mosaic: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability of a mosaic of four images, with their boxes and masks",
    )
    mixup: float = Field(0.0, ge=0, description="alpha of MixUp; 0 = off")
    cutmix: float = Field(0.0, ge=0, description="alpha of CutMix; 0 = off")


class StartRecipe(RecipeSection):
    """The run that this one continues (`foveate continue`)."""

    run: str = Field(
        "",
        description="finished run to continue from: its weights, classes and images; empty = none",
    )
    replay: float = Field(
        1.0, ge=0, le=1, description="fraction of the earlier training images that is replayed"
    )
    distill: float = Field(
        0.0,
        ge=0,
        description="weight of the distillation loss towards the earlier predictions on the new "
        "images (learning without forgetting, Li & Hoiem 2016); 0 = off",
    )
    temperature: float = Field(2.0, gt=0, description="temperature of the distillation loss")


class Recipe(RecipeSection):
    """All settings of a run."""

    data: DataRecipe = Field(default_factory=DataRecipe)
    task: PluginChoice = Field(
        default_factory=lambda: PluginChoice(name="auto"),
        description="task; auto infers it from the labels",
    )
    backbone: BackboneRecipe = Field(default_factory=BackboneRecipe)
    tuning: PluginChoice = Field(
        default_factory=lambda: PluginChoice(name="default"),
        description="fine-tuning method; auto tries methods from the cheapest on and keeps the "
        "best; default: probe for classes, full for boxes and masks",
    )
    training: TrainingRecipe = Field(default_factory=TrainingRecipe)
    augment: AugmentRecipe = Field(default_factory=AugmentRecipe)
    start: StartRecipe = Field(default_factory=StartRecipe)
    seed: int = Field(0, ge=0, lt=2**32, description="seed of all random choices")
    device: str = Field("auto", description="compute device: auto, cpu, cuda, cuda:1 or mps")
    lang: Literal["en", "zh"] = Field("en", description="language of reports: en or zh")

    def is_set(self, dotted: str) -> bool:
        """Whether a dotted field was set, by the user or by a decision; else it has its default."""
        section: Any = self
        for part in dotted.split("."):
            if part not in section.model_fields_set:
                return False
            section = getattr(section, part)
        return not (isinstance(section, PluginChoice) and section.name == "default")

    def to_yaml(self, only_set: bool = False) -> str:
        """Return the recipe as YAML.

        Args:
            only_set: Leave out fields that are not set, so that they can still be resolved.
        """
        return to_yaml(self.model_dump(mode="json", exclude_unset=only_set))
