"""Runs ask for compiled kernels outside deterministic mode alone, and tell what came of them."""

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from esper_async.kasmina.compiling.kernel_artifact import artifact_key, packed, record_key
from esper_async.kasmina.compiling.kernel_compiler import compilation_key
from esper_async.kasmina.compiling.kernel_loader import Wanted
from esper_async.kasmina.compiling.kernel_record import Compilation
from esper_async.kasmina.interface import SiteInterface
from esper_async.leyline import CompileStrategy, KernelRequest
from esper_async.leyline.signing import Signer
from esper_async.tolaria.compiled_kernels import ForgeKernels, NotOurKernelError
from esper_async.tolaria.engine import Engine
from esper_async.urza import Library
from tests.tolaria.growth_tasks import BLUEPRINTS, listed
from tests.tolaria.test_engine import kinds, options

SITE = SiteInterface("feature", (8,))
WANTED = Wanted("BP014", SITE, (), 16, 1)
SIGNER = Signer(bytes(32))


def record(*, kept: bool, reason: str = "") -> Compilation:
    key = compilation_key("BP014", SITE, batch=16, threads=1)
    return Compilation(
        key=key, certificate_key="c", blueprint_id="BP014", interface=SITE.key, settings={},
        batch=16, threads=1, strategy="standard", kept=kept, reason=reason, torch_version="2.8.0",
    )  # fmt: skip


class NotFaster:
    """Supplies records that say that a kernel stays eager; `told` is set once one was read."""

    def __init__(self) -> None:
        self.wanted: set[Wanted] = set()

    def record(self, wanted: Wanted) -> Compilation | None:
        self.wanted.add(wanted)
        return record(kept=False, reason="not faster")

    def unpack(self, record: Compilation, folder: Path) -> None:
        raise AssertionError("nothing was kept")

    def ask(self, wanted: Wanted) -> bool:
        return True


def run_with(supplier: Any, folder: Path, **changes: Any) -> tuple[Any, list[dict[str, Any]]]:
    records: list[dict[str, Any]] = []
    engine = Engine(
        listed(),
        options(**changes),
        folder=folder,
        listener=lambda each: records.append(dict(each)),
        blueprints=BLUEPRINTS,
        kernels=supplier,
    )
    with closing(engine):
        return engine.run(), records


def test_a_run_that_is_not_deterministic_tells_once_of_each_seed_that_stays_eager(tmp_path: Path):
    supplier = NotFaster()
    _, records = run_with(supplier, tmp_path, deterministic=False)
    assert supplier.wanted
    assert all((each.batch, each.threads) == (16, 1) for each in supplier.wanted)
    told = kinds(records, "kernel_swap")
    assert [(each["compiled"], each["reason"]) for each in told] == [(False, "not faster")] * len(
        told
    )
    assert len({each["seed"] for each in told}) == len(told) > 0
    assert "kernel-loader" not in {thread.name for thread in threading.enumerate()}
    assert {each["fetch_ms"] for each in told} == {None}


def test_a_deterministic_run_asks_for_none(tmp_path: Path):
    supplier = NotFaster()
    _, records = run_with(supplier, tmp_path)
    assert supplier.wanted == set()
    assert kinds(records, "kernel_swap") == []


class Wire:
    """Takes the place of a bridge: what is offered stays here."""

    def __init__(self) -> None:
        self.offered: list[KernelRequest] = []

    def offer(self, message: KernelRequest) -> bool:
        self.offered.append(message)
        return True


@pytest.fixture
def library(tmp_path: Path):
    library = Library(tmp_path / "urza", signer=SIGNER)
    yield library
    library.close()


def test_the_forge_is_asked_for_the_batch_and_the_threads_of_the_run(library: Library):
    wire = Wire()
    kernels = ForgeKernels(wire, library, "r-1")  # type: ignore[arg-type]
    assert kernels.record(WANTED) is None
    assert kernels.ask(WANTED) is True
    (request,) = wire.offered
    assert (request.batch, request.threads, request.blueprint_id) == (16, 1, "BP014")
    assert request.strategy == CompileStrategy.COMPILE_STRATEGY_STANDARD
    assert request.run_id == "r-1"


def test_what_the_library_has_is_unpacked_only_under_our_own_key(library: Library, tmp_path: Path):
    kernels = ForgeKernels(Wire(), library, "r-1")  # type: ignore[arg-type]
    made = tmp_path / "made"
    made.mkdir()
    (made / "forward.so").write_bytes(b"code")
    kept = record(kept=True)
    library.put(record_key(kept.key), kept.to_json().encode(), kind="compilation")
    assert kernels.record(WANTED) is None  # its kernel is not there
    library.put(artifact_key(kept.key), packed(made), kind="kernel", sealed=True)
    assert kernels.record(WANTED) == kept
    kernels.unpack(kept, tmp_path / "out")
    assert (tmp_path / "out" / "forward.so").read_bytes() == b"code"
    elsewhere = Library(tmp_path / "urza", signer=Signer(bytes([1]) * 32))
    stranger = ForgeKernels(Wire(), elsewhere, "r-1")  # type: ignore[arg-type]
    with pytest.raises(NotOurKernelError):
        stranger.unpack(kept, tmp_path / "never")
    elsewhere.close()
    assert not (tmp_path / "never").exists()


def test_what_a_run_has_at_work_is_held_in_the_library_until_it_ends(
    library: Library, tmp_path: Path
):
    made = tmp_path / "made"
    made.mkdir()
    (made / "forward.so").write_bytes(b"code")
    kept = record(kept=True)
    library.put(artifact_key(kept.key), packed(made), kind="kernel", sealed=True)
    kernels = ForgeKernels(Wire(), library, "r-1")  # type: ignore[arg-type]

    def holders() -> tuple[str, ...]:
        asset = library.get(artifact_key(kept.key))
        assert asset is not None
        return asset.holders

    kernels.unpack(kept, tmp_path / "out")
    kernels.unpack(kept, tmp_path / "again")
    assert holders() == ("r-1",)
    kernels.close()
    assert holders() == ()
