"""cache: show what is kept to save time, or delete it."""

from typing import TYPE_CHECKING

from foveate.utils.invocation import entry_point

if TYPE_CHECKING:
    from foveate.api.cache.core import CacheResult


@entry_point
def cache(*, clear: bool = False) -> "CacheResult":
    """Show the cache of features, or delete it.

    Features of frozen backbones are kept, so that a second fit on the same images starts at once.
    The cache is in the folder $FOVEATE_CACHE (foveate in the user's cache folder, by default) and
    holds up to $FOVEATE_CACHE_GB gigabytes (5 by default): what was not used for longest is deleted
    first. It can be deleted at any time; that costs time, not results.

    Args:
        clear: Delete what is in the cache.

    Raises:
        UsageError: $FOVEATE_CACHE_GB is not a size.
    """
    from foveate.api.cache.core import clear_features, show_cache

    return clear_features() if clear else show_cache()
