"""The process's global states that results hang on: random ones (torch, Python, numpy), threads."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

DETERMINISTIC: Any = torch.utils.deterministic
"""Its settings are properties of the module, which type checkers do not see."""


def capture() -> dict[str, Any]:
    """Return every global random state as numbers and tensors, which are quick to copy."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    words = np.asarray(keys).astype(np.int64)  # torch computes with no unsigned ones
    version, internal, gauss = random.getstate()
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if cuda else None,
        "python": [version, torch.from_numpy(np.array(internal, dtype=np.int64)), gauss],
        "numpy": [kind, torch.from_numpy(words), position, has_gauss, cached],
    }


def restore(state: dict[str, Any]) -> None:
    """Put every global random state back to what `capture` returned.

    States of GPUs are left out on a machine that has not as many of them.
    """
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    words = keys.numpy().astype(np.uint32)
    np.random.set_state((kind, words, position, has_gauss, cached))


def seed_everything(seed: int) -> None:
    """Seed every global generator."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave every global random state as it was."""
    states = capture()
    try:
        yield
    finally:
        restore(states)


@contextmanager
def preserved(model: torch.nn.Module) -> Iterator[None]:
    """Leave random states, torch's threads and determinism and the model's mode as they were.

    What was added to the model takes the mode that its site had.
    """
    states, threads = capture(), torch.get_num_threads()
    strict, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    fills = DETERMINISTIC.fill_uninitialized_memory
    modes = [(part, part.training) for part in model.modules()]
    try:
        yield
    finally:
        restore(states)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        DETERMINISTIC.fill_uninitialized_memory = fills
        known = {part for part, _ in modes}
        for part, training in modes:
            part.training = training
            for child in part.children():
                if child not in known:
                    child.train(training)
