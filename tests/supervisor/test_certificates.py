"""Karn's budgets are judged by what the library really has."""

from pathlib import Path

from esper_async.karn.costs import certified_costs
from esper_async.karn.record import Interface
from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.legal import certify
from esper_async.kasmina.sites import Site
from esper_async.supervisor.certificates import LibraryCertificates
from esper_async.urza import Library


def test_a_certificate_in_the_library_is_a_cost_of_its_blueprint(tmp_path: Path) -> None:
    library = Library(tmp_path)
    site = Site("here", "here", SiteInterface("feature", (4,)), "nf", 0)
    certificate = certify("BP012", site, library)
    certificates = LibraryCertificates(library)
    costs = certified_costs(certificates, Interface("feature", (4,)))
    assert set(costs) == {"BP012"}
    assert costs["BP012"].parameters == certificate.parameter_count == 8
    assert costs["BP012"].training_ms == certificate.training_ms
    assert certified_costs(certificates, Interface("feature", (5,))) == {}
    library.close()
