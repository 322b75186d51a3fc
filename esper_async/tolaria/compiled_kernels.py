"""A run's compiled kernels: asked of the forge, found in the library, swapped in at boundaries."""

import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
import torch

from esper_async.kasmina.compiling.kernel_artifact import artifact_key, record_key, unpack
from esper_async.kasmina.compiling.kernel_compiler import compilation_key
from esper_async.kasmina.compiling.kernel_loader import Supplier, Wanted
from esper_async.kasmina.compiling.kernel_record import Compilation
from esper_async.kasmina.compiling.kernel_swap import KernelSwaps
from esper_async.leyline import SCHEMA_VERSION, CompileStrategy, KernelRequest
from esper_async.leyline import SiteInterface as InterfaceMessage
from esper_async.oona.bridge import Bridge
from esper_async.runtime.errors import BreakerOpen
from esper_async.tolaria.grower import Grower
from esper_async.urza import Library
from esper_async.urza.errors import UnknownAssetError

_LOG = structlog.get_logger(__name__)


class NotOurKernelError(Exception):
    """A compiled kernel is damaged, or not of this installation's own make."""


class ForgeKernels:
    """Compiled kernels that the forge makes. One that it has not made is asked for over the bus.

    The library holds the key under which they are sealed. What the run has at work stays there
    until `close`, whatever comes after it.
    """

    def __init__(self, bridge: Bridge, library: Library, run_id: str) -> None:
        self._bridge = bridge
        self._library = library
        self._run_id = run_id
        self._held: set[str] = set()

    def record(self, wanted: Wanted) -> Compilation | None:
        """Return what came of compiling it; None while there is none, or its kernel is gone."""
        content = self._library.read(record_key(_key(wanted)))
        if content is None:
            return None
        record = Compilation.from_json(content)
        if record.kept and self._library.get(artifact_key(record.key)) is None:
            return None
        return record

    def unpack(self, record: Compilation, folder: Path) -> None:
        """Write a kept kernel's files into a folder.

        Raises:
            NotOurKernelError: the forge of this installation has not made it, or it is damaged.
        """
        content = self._library.read(artifact_key(record.key), sealed=True)
        if content is None:
            raise NotOurKernelError(
                "the compiled kernel is damaged, or not of this installation's make; the forge "
                "makes it again"
            )
        asset = self._library.get(artifact_key(record.key))
        if asset is not None and asset.id not in self._held:
            self._library.hold(asset.id, self._run_id)
            self._held.add(asset.id)
        unpack(content, folder)

    def close(self) -> None:
        """Hold nothing any more: the run has ended, or will fetch anew when it goes on.

        A library that cannot be told keeps what it would have kept: no run fails of that.
        """
        for asset_id in self._held:
            try:
                self._library.release(asset_id, self._run_id)
            except (UnknownAssetError, BreakerOpen, OSError, sqlite3.Error) as error:
                _LOG.warning("kernel_stays_held", asset=asset_id, error=str(error))
        self._held.clear()

    def ask(self, wanted: Wanted) -> bool:
        """Have the forge compile it; return whether the request is on its way."""
        interface = wanted.interface
        return self._bridge.offer(
            KernelRequest(
                version=SCHEMA_VERSION,
                request_id=f"{self._run_id}:{_key(wanted)}",
                run_id=self._run_id,
                blueprint_id=wanted.blueprint,
                interface=InterfaceMessage(
                    kind=interface.kind,
                    shape=interface.shape,
                    dtype=interface.dtype,
                    layout=interface.layout,
                ),
                parameters={name: float(str(value)) for name, value in wanted.settings},
                strategy=CompileStrategy.COMPILE_STRATEGY_STANDARD,
                batch=wanted.batch,
                threads=wanted.threads,
            )
        )


class RunKernels:
    """What a run has of compiled kernels; nothing without a supplier."""

    def __init__(self, supplier: Supplier | None, scratch: Path | None) -> None:
        self._supplier = supplier
        self._scratch = scratch
        self._swaps: KernelSwaps | None = None

    def boundary(self, grower: Grower) -> list[dict[str, Any]]:
        """Swap what is ready, between two steps; return what there is to tell of it."""
        executor = grower.executor
        if self._supplier is None or self._scratch is None or executor is None:
            return []
        if self._swaps is None:
            self._swaps = KernelSwaps(
                self._supplier,
                self._scratch,
                batch=grower.batch_size,
                threads=torch.get_num_threads(),
            )
        return [asdict(swap) for swap in self._swaps.boundary(executor.seeds.values())]

    def close(self) -> None:
        """Let every kernel run as it is written."""
        if self._swaps is not None:
            self._swaps.close()
            self._swaps = None


def _key(wanted: Wanted) -> str:
    return compilation_key(
        wanted.blueprint,
        wanted.interface,
        parameters=dict(wanted.settings),
        batch=wanted.batch,
        threads=wanted.threads,
    )
