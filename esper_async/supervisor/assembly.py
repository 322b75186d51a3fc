"""How services are made, and what each is given; `declared` says what they stand on."""

import platform
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from esper_async.karn.service import KarnService
from esper_async.kasmina.service import KasminaService
from esper_async.leyline.signing import Signer
from esper_async.nissa.notify.settings import NotifyOptions
from esper_async.nissa.service import NissaOptions, NissaParts, NissaService
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.service import OonaService
from esper_async.oona.settings import BusSettings
from esper_async.runtime.breaker import CircuitBreaker
from esper_async.runtime.clock import Clock
from esper_async.runtime.disk import DiskLevel
from esper_async.runtime.metrics import Registry
from esper_async.runtime.service import HasBreakers, Service
from esper_async.simic.registry import PolicyRegistry
from esper_async.simic.service import SimicService
from esper_async.supervisor.certificates import LibraryCertificates
from esper_async.supervisor.current_bus import CurrentBus
from esper_async.supervisor.http import HttpListener, is_loopback
from esper_async.supervisor.settings import Settings
from esper_async.tamiyo.desk_book import Rules, desk_path
from esper_async.tamiyo.policy_desk import PolicyDesk
from esper_async.tamiyo.published import registry_path
from esper_async.tamiyo.service import TamiyoService
from esper_async.tezzeret.service import TezzeretService
from esper_async.tezzeret.settings import ForgeSettings
from esper_async.tolaria.service import TolariaOptions, TolariaService
from esper_async.urza.service import UrzaService

if TYPE_CHECKING:
    from esper_async.oona.bus import Bus


@dataclass(frozen=True, slots=True)
class Services:
    """Every service of one supervisor, by name of its part."""

    http: HttpListener
    oona: OonaService
    karn: KarnService
    urza: UrzaService
    tezzeret: TezzeretService
    simic: SimicService
    tolaria: TolariaService
    kasmina: KasminaService
    tamiyo: TamiyoService
    nissa: NissaService

    def breaker(self, name: str) -> CircuitBreaker:
        """Return the breaker of that name; raises LookupError naming those there are."""
        parts = [service for service in self.all() if isinstance(service, HasBreakers)]
        for part in parts:
            if name in part.breakers.states():
                return part.breakers.get(name)
        known = ", ".join(sorted(name for part in parts for name in part.breakers.states()))
        raise LookupError(f"there is no breaker {name!r}; there are: {known}")

    def all(self) -> list[Service]:
        """Return them in the order in which a reader would list them."""
        return [
            self.http,
            self.oona,
            self.karn,
            self.urza,
            self.tezzeret,
            self.tolaria,
            self.kasmina,
            self.tamiyo,
            self.simic,
            self.nissa,
        ]


def assemble(
    settings: Settings,
    state_dir: Path,
    *,
    signer: Signer,
    token: str,
    system: Callable[[], Mapping[str, Any]],
    disk: Callable[[], DiskLevel],
    registry: Registry,
    clock: Clock,
    source: random.Random,
) -> Services:
    """Make every service; starts nothing.

    `system()` is the body of `/readyz`; `token` is what changes over HTTP need; `disk()` says how
    much room there is.
    """
    http = HttpListener(settings.http.host, settings.http.port)
    oona = OonaService(
        state_dir,
        signer=signer,
        redis_url=settings.oona.redis_url,
        settings=BusSettings(dead_letters_kept=settings.oona.dead_letters_kept),
        metrics=BusMetrics(registry),
    )
    bus = cast("Bus", CurrentBus(lambda: oona.bus))
    tolaria = TolariaService(
        state_dir,
        lambda: oona.url,
        bus=bus,
        options=TolariaOptions(**settings.tolaria.model_dump()),
        registry=registry,
        disk=disk,
        clock=clock,
        source=source,
    )
    urza = UrzaService(state_dir, bus, registry=registry, clock=clock)
    karn = KarnService(
        state_dir,
        metrics=registry,
        bus=bus,
        certificates=LibraryCertificates(urza.library),
        clock=clock,
    )
    policies = PolicyRegistry(registry_path(state_dir), signer, desk=desk_path(state_dir))
    tamiyo = TamiyoService(
        state_dir,
        bus,
        desk=PolicyDesk(
            desk_path(state_dir),
            registry_path(state_dir),
            signer,
            rules=Rules(
                settings.tamiyo.policy_activation,
                settings.tamiyo.shadow_states,
                settings.tamiyo.watch_boundaries,
            ),
            now=clock.time,
        ),
        withdraw=policies.withdraw,
        registry=registry,
        clock=clock,
    )
    nissa = NissaService(
        state_dir,
        NissaParts(
            hub=tamiyo.hub,
            runs=tolaria,
            blueprints=karn,
            kernels=urza.library,
            policies=policies,
            system=system,
            bus=bus,
            dead_letters=lambda: oona.dead_letters,
            mount=http.mounted,
        ),
        token=token,
        registry=registry,
        hosts=() if is_loopback(settings.http.host) else (settings.http.host,),
        options=NissaOptions(
            notify=NotifyOptions(**settings.notify.model_dump()), **settings.nissa.model_dump()
        ),
        versions=versions(),
        disk=disk,
        clock=clock,
    )

    def breaker(name: str) -> CircuitBreaker:
        return services.breaker(name)

    services = Services(
        http=http,
        oona=oona,
        karn=karn,
        urza=urza,
        tezzeret=TezzeretService(
            state_dir,
            bus,
            settings=ForgeSettings.configured(**settings.tezzeret.model_dump()),
            registry=registry,
            clock=clock,
        ),
        simic=SimicService(state_dir, bus, policies=policies, registry=registry, clock=clock),
        tolaria=tolaria,
        kasmina=KasminaService(
            bus,
            tolaria,
            breaker=breaker,
            registry=registry,
            clock=clock,
        ),
        tamiyo=tamiyo,
        nissa=nissa,
    )
    return services


def versions() -> dict[str, str]:
    """Return the versions that matter in a report, read without importing anything."""
    found = {"python": platform.python_version()}
    for name, package in (("esper", "esper-async"), ("torch", "torch")):
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
