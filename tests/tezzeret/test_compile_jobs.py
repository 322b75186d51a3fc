"""Compiling in the forge: stepping down, waiting for a compiler, giving way, and being told."""

import hashlib
from pathlib import Path

import pytest

from esper_async.kasmina.compiling.kernel_artifact import artifact_key, record_key
from esper_async.kasmina.compiling.kernel_record import Compilation, Strategy, stepped_down
from esper_async.leyline import (
    CompileStrategy,
    KernelError,
    KernelReady,
    KernelRequest,
    load_signer,
)
from esper_async.tezzeret import forge as forge_module
from esper_async.tezzeret.settings import workers_for
from esper_async.urza import Library
from tests.tezzeret.live_forge import Live, forge, request, until

STANDARD = CompileStrategy.COMPILE_STRATEGY_STANDARD
EMERGENCY = CompileStrategy.COMPILE_STRATEGY_EMERGENCY


@pytest.fixture(autouse=True)
def there_is_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripted worker needs none."""
    monkeypatch.setattr(forge_module, "cxx_compiler", lambda: "/usr/bin/g++")


def compiling(blueprint: str, name: str = "", **changes: object) -> KernelRequest:
    fields = {"strategy": STANDARD, "batch": 32, "threads": 1, **changes}
    return request(blueprint, name or f"compile-{blueprint}", **fields)


def attempts_of(live: Live) -> list[str]:
    path = live.state_dir / "proved.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.startswith("compiled")]


def test_two_failures_go_one_step_down_and_aggressive_is_off_in_conservative_mode():
    tried = [stepped_down(Strategy.AGGRESSIVE, failures) for failures in range(9)]
    assert tried == [
        *["aggressive"] * 2, *["standard"] * 2, *["fast"] * 2, *["emergency"] * 3
    ]  # fmt: skip
    assert stepped_down(Strategy.AGGRESSIVE, 0, conservative=True) is Strategy.STANDARD
    assert stepped_down(Strategy.FAST, 0, conservative=True) is Strategy.FAST


def test_there_is_one_worker_for_every_four_cores():
    assert [workers_for(cores) for cores in (1, 2, 4, 8, 64)] == [1, 1, 1, 2, 4]


async def test_a_compiled_kernel_is_announced_with_its_artifact_and_times(tmp_path: Path):
    async with forge(tmp_path) as live:
        await live.bus.deliver(compiling("BP002"))
        ready = await live.answered("compile-BP002")
        assert isinstance(ready, KernelReady)
        assert (ready.strategy, ready.forward_ms, ready.backward_ms) == (STANDARD, 1.0, 2.0)
        library = Library(tmp_path / "urza", signer=load_signer(tmp_path / "leyline.key"))
        content = library.read(artifact_key(ready.kernel_id), sealed=True)
        assert content is not None
        assert ready.artifact_sha256 == hashlib.sha256(content).digest()
        library.close()


async def test_a_second_start_compiles_nothing(tmp_path: Path):
    for name in ("first", "second"):
        async with forge(tmp_path) as live:
            await live.bus.deliver(compiling("BP002", name))
            assert isinstance(await live.answered(name), KernelReady)
            assert attempts_of(live) == ["compiled BP002 standard"]


async def test_what_cannot_be_compiled_steps_down_stays_eager_and_says_why(tmp_path: Path):
    async with forge(tmp_path) as live:
        await live.bus.deliver(compiling("stubborn"))
        ready = await live.answered("compile-stubborn")
        assert isinstance(ready, KernelReady)
        assert ready.strategy == EMERGENCY
        assert ready.artifact_sha256 == b""
        assert attempts_of(live) == ["compiled stubborn emergency"]
        library = Library(tmp_path / "urza")
        record = Compilation.from_json(library.read(record_key(ready.kernel_id)) or b"")
        library.close()
        assert (record.kept, record.reason) == (False, "the compiler broke at fast")


async def test_without_a_compiler_kernels_stay_eager_and_proofs_go_on_until_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(forge_module, "cxx_compiler", lambda: None)
    async with forge(tmp_path) as live:
        await live.bus.deliver(compiling("BP002"))
        await live.bus.deliver(request("BP001"))
        assert isinstance(await live.answered("ask-BP001"), KernelReady)
        await until(lambda: live.service.detail()["jobs"] == {"done": 4, "queued": 1})
        assert "install one" in str(live.service.detail()["conservative"])
        assert live.answer("compile-BP002") is None
        monkeypatch.setattr(forge_module, "cxx_compiler", lambda: "/usr/bin/g++")
        assert isinstance(await live.answered("compile-BP002"), KernelReady)
        await until(lambda: live.service.detail()["conservative"] is None)


async def test_compiling_gives_way_to_what_a_live_run_waits_for_and_is_done_afterwards(
    tmp_path: Path,
):
    async with forge(tmp_path) as live:
        await live.bus.deliver(compiling("lasting"))
        await until((tmp_path / "met-lasting").exists)
        await live.bus.deliver(request("BP001"))
        assert isinstance(await live.answered("ask-BP001"), KernelReady)
        assert isinstance(await live.answered("compile-lasting"), KernelReady)
        assert live.service.detail()["workers_started"] == 2


@pytest.mark.parametrize("keys", ["other", "same"])
async def test_a_kernel_that_is_not_ours_or_is_gone_is_made_again(tmp_path: Path, keys: str):
    async with forge(tmp_path) as live:
        await live.bus.deliver(compiling("BP002"))
        ready = await live.answered("compile-BP002")
        library = Library(tmp_path / "urza", signer=load_signer(tmp_path / "leyline.key"))
        key = artifact_key(ready.kernel_id)  # type: ignore[union-attr]
        asset = library.get(key)
        assert asset is not None
        if keys == "other":
            library.put(key, b"signed by somebody else, and long enough", kind="kernel")
        else:
            path = library._shelves._blobs.path(asset.blob)
            path.write_bytes(b"x" + path.read_bytes()[1:])
        assert library.read(key, sealed=True) is None  # as a run does, which quarantines it
        await until(lambda: attempts_of(live) == ["compiled BP002 standard"] * 2)
        await until(lambda: getattr(library.get(key), "blob", "") == asset.blob)
        library.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 0}, "batches of 0"),
        ({"device": "cuda"}, "compiled for the CPU"),
        ({"blueprint_id": ""}, "which blueprint"),
    ],
)
async def test_a_compilation_that_can_never_be_is_refused_at_once(
    tmp_path: Path, changes: dict[str, object], words: str
):
    async with forge(tmp_path) as live:
        await live.bus.deliver(compiling("BP001", **changes))
        error = await live.answered("compile-BP001")
        assert isinstance(error, KernelError)
        assert words in error.reason
