"""Worker processes that a DataLoader keeps from one epoch to the next (`persistent_workers`).

Who begins an epoch with living workers draws one number less from the global stream than who starts
them. So a run that goes on in another process must begin with workers where the first one had them.
"""

from typing import Any

from torch.utils.data import DataLoader

from esper_async.tolaria import global_random


def keeps_workers(loader: Any) -> bool:
    """Whether a loader's workers outlive the epoch for which they were started."""
    return isinstance(loader, DataLoader) and loader.persistent_workers


def has_workers(loader: Any) -> bool:
    """Whether there are such workers now."""
    return keeps_workers(loader) and loader._iterator is not None


def set_workers(loader: Any, wanted: bool) -> None:
    """Start the workers that a loader keeps, or end them; global random states stay.

    The loader's own generator is the caller's to restore. Of one that keeps none, or has a position
    of its own, nothing is changed.
    """
    if not keeps_workers(loader) or has_position(loader) or has_workers(loader) == wanted:
        return
    if wanted:
        with global_random.undisturbed():
            iter(loader)
    else:
        loader._iterator = None  # its end is the workers' end


def has_position(loader: Any) -> bool:
    """Whether a loader saves and restores its own position."""
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
