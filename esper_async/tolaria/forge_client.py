"""Asking the forge for certificates, and waiting for them with progress."""

import time
from collections.abc import Callable, Sequence

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.legal import CertificateStore, Progress
from esper_async.kasmina.proof import certificate_key
from esper_async.kasmina.sites import Site
from esper_async.leyline import SCHEMA_VERSION, KernelRequest
from esper_async.leyline import SiteInterface as InterfaceMessage
from esper_async.oona.bridge import Bridge

POLL_S = 0.1
PATIENCE_S = 30.0


class ForgeClient:
    """Has missing certificates made by the forge's worker.

    It waits as long as certificates keep coming. When none has come for `patience_s` (the forge is
    down, say, or Redis away) it returns, and what is still missing is proved in this process.
    """

    def __init__(
        self,
        bridge: Bridge,
        store: CertificateStore,
        run_id: str,
        *,
        progress: Progress,
        stop_requested: Callable[[], bool],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._bridge = bridge
        self._store = store
        self._run_id = run_id
        self._progress = progress
        self._stop_requested = stop_requested
        self._patience_s = patience_s

    def __call__(self, pairs: Sequence[tuple[Site, str]]) -> None:
        """Request what is missing of `pairs` (site, blueprint id) and wait for it."""
        missing = self._missing({self._key(site, name): (site, name) for site, name in pairs})
        for site, blueprint in missing.values():
            self._request(site.interface, blueprint)
        total = len(missing)
        heard = time.monotonic()
        while missing and not self._stop_requested():
            left = self._missing(missing)
            if len(left) < len(missing):
                heard = time.monotonic()
            elif time.monotonic() - heard > self._patience_s:
                return
            missing = left
            self._progress(total - len(missing), total, "waiting for the forge")
            if missing:
                time.sleep(POLL_S)

    def _missing(self, keys: dict[str, tuple[Site, str]]) -> dict[str, tuple[Site, str]]:
        return {key: pair for key, pair in keys.items() if self._store.certificate(key) is None}

    @staticmethod
    def _key(site: Site, blueprint: str) -> str:
        return certificate_key(blueprint, site.interface)

    def _request(self, interface: SiteInterface, blueprint: str) -> None:
        self._bridge.offer(
            KernelRequest(
                version=SCHEMA_VERSION,
                request_id=f"{self._run_id}:{interface.key}:{blueprint}",
                run_id=self._run_id,
                blueprint_id=blueprint,
                interface=InterfaceMessage(
                    kind=interface.kind,
                    shape=interface.shape,
                    dtype=interface.dtype,
                    layout=interface.layout,
                ),
            )
        )
