"""What the tests of callbacks share: certificates, which are slow to make, and one thread."""

from collections.abc import Iterator

import pytest
import torch

from esper_async.kasmina.legal import MemoryStore


@pytest.fixture(scope="session")
def certificates() -> MemoryStore:
    """Certificates that every run of this session may use again."""
    return MemoryStore()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute small networks in one thread: two that wait for each other are far slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
