"""The real worker: torch imported in a child, real proofs, certificates that read back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from esper_async.kasmina.certificate import Certificate
from esper_async.kasmina.compiling.kernel_artifact import artifact_key, record_key
from esper_async.kasmina.compiling.kernel_compiler import CompilerFailedError, compilation_key
from esper_async.kasmina.compiling.kernel_record import Compilation, Strategy
from esper_async.kasmina.interface import SiteInterface
from esper_async.leyline import KernelError, KernelReady
from esper_async.leyline import SiteInterface as SiteInterfaceMessage
from esper_async.leyline.signing import Signer
from esper_async.tezzeret import compilation
from esper_async.tezzeret.compilation import compile_into
from esper_async.tezzeret.job import Compile, JobKind, Work
from esper_async.tezzeret.service import TezzeretService
from esper_async.tezzeret.settings import ForgeSettings
from esper_async.urza import Library
from tests.tezzeret.live_forge import request, running
from tests.tezzeret.quiet_bus import QuietBus

SMALL = SiteInterfaceMessage(kind="feature", shape=[4], dtype="float32", layout="contiguous")


async def test_real_proofs_become_certificates_and_quarantined_blueprints_are_refused(
    tmp_path: Path,
):
    settings = ForgeSettings(retry_s=0.01, nice=0)
    service = TezzeretService(tmp_path, bus := QuietBus(), settings=settings)
    async with running(service, bus, tmp_path) as live:
        await live.bus.deliver(request("BP014", interface=SMALL))
        await live.bus.deliver(request("BP045", interface=SMALL))
        await live.bus.deliver(request("BP999", interface=SMALL))
        ready = await live.answered("ask-BP014")
        assert isinstance(ready, KernelReady)
        for name, words in (("ask-BP045", "adversarial"), ("ask-BP999", "no kernel")):
            error = await live.answered(name)
            assert isinstance(error, KernelError)
            assert words in error.reason
    library = Library(tmp_path / "urza")
    record = library.certificate(ready.certificate_key)
    certificate = Certificate.from_json(json.dumps(record))
    assert certificate.passed
    assert certificate.key == ready.certificate_key
    assert certificate.parameter_count == ready.parameters > 0
    assert [entry.actor for entry in library.audit()] == ["tezzeret"] * len(library.find())
    library.close()


def test_a_survey_names_what_fits_and_a_certificate_that_exists_is_not_proved_again(
    tmp_path: Path,
):
    from esper_async.tezzeret.worker import perform

    library = Library(tmp_path)
    site = SiteInterface("feature", (4,))
    found = perform(Work(JobKind.SURVEY, site, "f"), library)["found"]
    assert {"BP006", "BP014"} <= set(found)
    assert not {"BP036", "BP045", "BP033"} & set(found)
    job = Work(JobKind.PROVE, site, "f", blueprint="BP014")
    first, second = perform(job, library), perform(job, library)
    assert (first["proved"], second["proved"]) == (True, False)
    assert first["key"] == second["key"]
    library.close()


def test_a_library_that_cannot_store_is_reported_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from esper_async.tezzeret.worker import perform

    library = Library(tmp_path)

    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(library, "put_certificate", no_space)
    job = Work(JobKind.PROVE, SiteInterface("feature", (4,)), "f", blueprint="BP014")
    outcome = perform(job, library)
    assert outcome["outcome"] == "unstored"
    assert "No space left" in outcome["error"]
    library.close()


class TestCompiling:
    """The worker's side of a compilation, with a compiler that is played."""

    SITE = SiteInterface("feature", (4,))
    JOB = Work(JobKind.COMPILE, SITE, "f", "BP014", compile=Compile(8, 1, Strategy.STANDARD, "why"))
    SIGNER = Signer(bytes(32))

    @pytest.fixture
    def library(self, tmp_path: Path):
        library = Library(tmp_path / "urza", signer=self.SIGNER)
        yield library
        library.close()

    @pytest.fixture
    def compiled(self, monkeypatch: pytest.MonkeyPatch) -> list[Strategy]:
        """Compile in no time; the list tells what was tried."""
        tried: list[Strategy] = []

        def play(blueprint: str, interface: SiteInterface, folder: Path, **asked) -> Compilation:
            tried.append(asked["strategy"])
            (folder / "forward.so").write_bytes(b"code")
            key = compilation_key(blueprint, interface, batch=8, threads=1)
            return Compilation(
                key=key, certificate_key="c", blueprint_id=blueprint, interface=interface.key,
                settings={}, batch=8, threads=1, strategy=asked["strategy"],
                kept=True, reason="", torch_version="2.8.0", ratio=0.5,
            )  # fmt: skip

        monkeypatch.setattr(compilation, "compile_kernel", play)
        return tried

    def test_what_was_compiled_is_not_compiled_again_until_it_is_gone_or_foreign(
        self, library: Library, tmp_path: Path, compiled: list[Strategy]
    ):
        outcomes = [compile_into(self.JOB, library, tmp_path) for _ in range(2)]
        assert [outcome["compiled"] for outcome in outcomes] == [True, False]
        key = artifact_key(outcomes[0]["key"])
        assert library.read(key, sealed=True) is not None
        library.put(key, b"from somebody else's backup", kind="kernel")
        assert compile_into(self.JOB, library, tmp_path)["compiled"] is True
        other = Library(tmp_path / "urza", signer=Signer(bytes([1]) * 32))
        assert compile_into(self.JOB, other, tmp_path)["compiled"] is True
        other.close()
        assert compiled == [Strategy.STANDARD] * 3
        record = library.get(record_key(outcomes[0]["key"]))
        assert record is not None
        assert dict(record.performance) == {"ratio": 0.5}

    @pytest.mark.parametrize(
        ("error", "there", "outcome"),
        [
            (CompilerFailedError("g++ said no"), True, "failed"),
            (CompilerFailedError("g++ is gone"), False, "unstored"),
            (MemoryError(), True, "failed"),
            (OSError(28, "No space left on device"), True, "unstored"),
        ],
    )
    def test_a_failure_counts_only_where_the_kernel_may_be_to_blame(
        self,
        library: Library,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        error: Exception,
        there: bool,
        outcome: str,
    ):
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(compilation, "compile_kernel", fail)
        monkeypatch.setattr(compilation, "cxx_compiler", lambda: "g++" if there else None)
        assert compile_into(self.JOB, library, tmp_path)["outcome"] == outcome
        assert [path for path in tmp_path.iterdir() if path.name != "urza"] == []

    def test_a_quarantined_blueprint_is_refused(self, library: Library, tmp_path: Path):
        job = replace(self.JOB, blueprint="BP045")
        found = compile_into(job, library, tmp_path)
        assert (found["outcome"], "adversarial" in found["error"]) == ("refused", True)
