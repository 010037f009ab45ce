"""generate RUN [PROMPTS]: images by a diffusion model."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, as_path, to_path

if TYPE_CHECKING:
    from foveate.api.generate.core import GenerateResult


@entry_point
def generate(
    run: PathLike,
    prompts: str | Iterable[str] = (),
    *,
    count: int = 1,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    image: PathLike | None = None,
    mask: PathLike | None = None,
    strength: float | None = None,
    reference: PathLike | None = None,
    feature_backbone: str = "tf_efficientnet_lite0",
    out: PathLike | None = None,
    device: str = "auto",
) -> "GenerateResult":
    """Generate images with a run of the task generate or a pretrained diffusion model.

    The same seed gives the same image, whatever else is generated beside it.

    Args:
        run: Run folder, or the name of a pretrained diffusion model.
        prompts: Prompts or class names. Default: the example prompts of the run.
        count: Images per prompt.
        seed: Seed of the first image; image i uses seed + i.
        steps: Denoising steps. Default: as in the run.
        guidance: Classifier-free guidance scale; 1 = off. Default: as in the run.
        image: Image to start from instead of pure noise.
        mask: Mask of the image: only its white region is generated.
        strength: How much noise is added to the image first, above 0 and up to 1. Default: 0.5, or
            1 with `mask`.
        reference: Folder of real images to compare with; reports KID and FID.
        feature_backbone: Backbone whose features KID and FID compare.
        out: Folder to create. Default: RUN/generated/N.
        device: Compute device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        UsageError: The run has another task, or the options do not fit together.
        DataError: The mask has another size than the image, or no white region.
    """
    from foveate.api.generate.core import Request, generate_files

    request = Request(
        prompts=[prompts] if isinstance(prompts, str) else list(prompts),
        count=count,
        seed=seed,
        steps=steps,
        guidance=guidance,
        image=as_path(image),
        mask=as_path(mask),
        strength=strength,
        reference=as_path(reference),
        feature_backbone=feature_backbone,
    )
    return generate_files(
        run if isinstance(run, str) else to_path(run), request, as_path(out), device
    )
