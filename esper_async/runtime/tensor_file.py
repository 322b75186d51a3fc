"""What `torch.save` wrote, read as data: tensors, numbers, texts and containers, no objects."""

from pathlib import Path
from typing import IO, Any


class TensorFileError(ValueError):
    """It is no file of tensors, or a damaged one, or holds what is more than data."""


def read_tensors(source: Path | IO[bytes], *, mapped: bool = False) -> Any:
    """Return what a file holds, on the CPU; large tensors in a private map of it, if so asked.

    Whoever made the file: nothing of it is run. Raises TensorFileError, and OSError where it cannot
    be read at all.
    """
    import torch  # here, since the supervisor has no torch

    try:
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped or None)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # over damaged bytes torch raises whatever its reader stumbles over
        raise TensorFileError(f"it holds no tensors that can be read: {error}") from error
