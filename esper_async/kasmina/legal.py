"""Which blueprints may be planted where: those certified for the site's interface."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from esper_async.kasmina.certificate import Certificate
from esper_async.kasmina.kernels import KernelRefusedError, blueprints_for, kernel_class
from esper_async.kasmina.kernels.graft import BlendMode, fitting_blend
from esper_async.kasmina.proof import certificate_key, prove
from esper_async.kasmina.sites import Site

Progress = Callable[[int, int, str], None]
Supply = Callable[[Sequence[tuple[Site, str]]], None]
"""Has certificates of (site, blueprint) pairs made elsewhere, and waits for them."""


class CertificateStore(Protocol):
    """Where certificates survive a restart."""

    def certificate(self, key: str) -> dict[str, Any] | None:
        """Return the record stored under `key`, or None."""
        ...

    def put_certificate(
        self,
        key: str,
        record: dict[str, Any],
        *,
        blueprint: str,
        interface: str,
        tier: str,
        stage: int,
        risk: float,
    ) -> object:
        """Store a record under `key`, with what its blueprint declares of itself."""
        ...


class MemoryStore:
    """Certificates of this process alone."""

    def __init__(self) -> None:
        self._records: dict[str, dict[str, Any]] = {}

    def certificate(self, key: str) -> dict[str, Any] | None:
        """Return the record stored under `key`, or None."""
        return self._records.get(key)

    def put_certificate(self, key: str, record: dict[str, Any], **_about: object) -> None:
        """Store a record under `key`; nobody asks this store for a kind."""
        self._records[key] = record


@dataclass(frozen=True, slots=True)
class LegalPair:
    """A certified blueprint at a site, with what the certificate measured.

    `saved_bytes` is what a sample's forward pass keeps for its backward pass.
    """

    site: Site
    blueprint: str
    blend: BlendMode
    parameters: int
    saved_bytes: int


def certify(
    blueprint: str, site: Site, store: CertificateStore, *, drill: bool = False
) -> Certificate:
    """Return the certificate of a blueprint at a site, proving it now if none is stored."""
    key = certificate_key(blueprint, site.interface)
    record = store.certificate(key)
    if record is not None:
        return Certificate.from_json(json.dumps(record))
    certificate = prove(blueprint, site.interface, drill=drill)
    store_certificate(store, certificate, site.interface.key)
    return certificate


def store_certificate(store: CertificateStore, certificate: Certificate, interface: str) -> None:
    """Put a certificate where it survives, with its blueprint's tier, stage and risk."""
    blueprint = kernel_class(certificate.blueprint_id, drill=True).blueprint
    store.put_certificate(
        certificate.key,
        json.loads(certificate.to_json()),
        blueprint=blueprint.id,
        interface=interface,
        tier=blueprint.tier,
        stage=blueprint.stage,
        risk=blueprint.risk,
    )


def check_blueprints(
    blueprints: Iterable[str] | None, *, tiers: Iterable[str], drill: bool = False
) -> None:
    """Refuse blueprints that could never be planted, whatever the site.

    Raises:
        KernelRefusedError: one does not exist, is quarantined, or is of a tier that is not allowed.
    """
    if isinstance(blueprints, str):
        raise KernelRefusedError(f"blueprints is a list of ids, like [{blueprints!r}]")
    allowed = set(tiers)
    for blueprint in blueprints or ():
        tier = kernel_class(blueprint, drill=drill).blueprint.tier
        if tier not in allowed:
            raise KernelRefusedError(
                f"{blueprint} is of the tier {tier!r}, which growth.tiers does not allow: "
                f"{', '.join(sorted(allowed))}"
            )


def legal_pairs(
    sites: Sequence[Site],
    store: CertificateStore,
    *,
    tiers: Iterable[str],
    only: Iterable[str] | None = None,
    drill: bool = False,
    supply: Supply | None = None,
    progress: Progress | None = None,
) -> list[LegalPair]:
    """Return every certified pair of a site and a blueprint of the allowed tiers.

    `supply` may have certificates made first; what is still not certified is proved now, with
    `progress(done, total, what)`.
    """
    wanted = None if only is None else set(only)
    allowed = set(tiers)
    pairs = [
        (site, blueprint.id)
        for site in sites
        for blueprint in blueprints_for(site.interface, drill=drill)
        if (blueprint.tier in allowed) and (wanted is None or blueprint.id in wanted)
    ]
    if supply is not None:
        supply(pairs)
    found = []
    for done, (site, blueprint) in enumerate(pairs):
        if progress is not None:
            progress(done, len(pairs), f"{blueprint} at {site.name}")
        certificate = certify(blueprint, site, store, drill=drill)
        parameters, saved = certificate.parameter_count, certificate.saved_bytes
        if certificate.passed and parameters is not None and saved is not None:
            output = kernel_class(blueprint, drill=drill).output
            blend: BlendMode = fitting_blend(output)
            found.append(LegalPair(site, blueprint, blend, parameters, saved))
    if progress is not None:
        progress(len(pairs), len(pairs), "done")
    return found
