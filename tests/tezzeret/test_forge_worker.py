"""The real worker: torch imported in a child, real proofs, certificates that read back."""

import json
from pathlib import Path

import pytest

from esper_async.kasmina.certificate import Certificate
from esper_async.kasmina.interface import SiteInterface
from esper_async.leyline import KernelError, KernelReady
from esper_async.leyline import SiteInterface as SiteInterfaceMessage
from esper_async.tezzeret.job import JobKind, Work
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
    assert "BP014" in found
    assert not {"BP045", "BP033"} & set(found)
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
