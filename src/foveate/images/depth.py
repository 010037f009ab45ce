"""Whether an image has more than 8 bits, by its header."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from foveate.images.codec import FORMATS
from foveate.images.pixels import has_deep_mode
from foveate.images.quiet import quiet_pillow
from foveate.images.readers import is_deep_color, is_deep_tiff


def has_deep_values(source: Path | bytes) -> bool:
    """Whether an image has more than 8 bits, and keeps them when it is decoded.

    DICOM does not: its values are reduced to what its window shows.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with quiet_pillow(), Image.open(file, formats=FORMATS) as image:
            return has_deep_mode(image) or is_deep_color(image)
    except UnidentifiedImageError:
        return is_deep_tiff(source)
    except Exception:  # whoever decodes it will say what is wrong
        return False
