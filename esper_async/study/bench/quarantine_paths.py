"""The paths that could lead an adversarial kernel into a live run, each tried."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, cast

import torch
from google.protobuf.message import Message
from torch import Tensor, nn

from esper_async import Grower
from esper_async.karn.catalogue import Catalogue, Query
from esper_async.karn.errors import KarnError
from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import KernelRefusedError, build_kernel
from esper_async.kasmina.legal import MemoryStore, certify, legal_pairs
from esper_async.kasmina.planting import CommandRefusedError
from esper_async.kasmina.proof import certificate_key
from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.service import KasminaService
from esper_async.kasmina.sites import Site
from esper_async.leyline import AdaptationCommand, CommandType, EventEnvelope, SeedOperation
from esper_async.study.bench.planting import PlantOnce
from esper_async.tamiyo.command import Germinate
from esper_async.tolaria.options import options_from_run
from esper_async.tolaria.run_file import parse_run

_FLAT = SiteInterface("feature", (4,))


def open_paths(blueprint_id: str) -> list[str]:
    """Name the paths that lead an adversarial kernel into a live run; none should."""
    return [name for name, tried in _PATHS.items() if tried(blueprint_id)]


def _by_building(blueprint_id: str) -> bool:
    with suppress(KernelRefusedError):
        build_kernel(blueprint_id, _FLAT, seed=0)
        return True
    return False


def _by_name(blueprint_id: str) -> bool:
    with suppress(ValueError):
        _grower(blueprints=[blueprint_id])
        return True
    return False


def _by_command(blueprint_id: str) -> bool:
    grower = _grower(blueprints=["BP012"])
    grower.prepare(_batch())
    with suppress(CommandRefusedError, KernelRefusedError):
        grower.carry_out(Germinate((Candidate(grower.sites[0].name, blueprint_id),)))
        return True
    return False


def _by_run_file(_: str) -> bool:
    asked: list[dict[str, object]] = [{"tiers": ["adversarial"]}, {"drill": True}]
    for growth in asked:
        with suppress(ValueError):
            parse_run({"run": {"task": "a:b"}, "growth": growth})
            return True
    return False


def _by_edited_run(_: str) -> bool:
    stored = parse_run({"run": {"task": "a:b"}}).model_dump(mode="json")
    stored["growth"].update(tiers=["adversarial"], drill=True)
    with suppress(ValueError):
        options_from_run(stored)
        return True
    return False


def _by_catalogue(blueprint_id: str) -> bool:
    records = [
        replace(each, tier="production", risk=0.0) if each.id == blueprint_id else each
        for each in Catalogue().records
    ]
    tampered = Catalogue(records)
    if blueprint_id in {record.id for record in tampered.query(Query())}:
        return True
    with suppress(KarnError):
        tampered.get(blueprint_id)
        return True
    return False


def _by_certificate(blueprint_id: str) -> bool:
    site, store = Site("here", "here", _FLAT, "nf", 0), MemoryStore()
    honest = asdict(certify("BP012", site, store))
    key = certificate_key(blueprint_id, _FLAT)
    forged = {**honest, "key": key, "blueprint_id": blueprint_id}
    store.put_certificate(key, forged, blueprint=blueprint_id, interface=_FLAT.key)
    tiers = ["production", "adversarial"]
    pairs = legal_pairs([site], store, tiers=tiers, only=["BP012", blueprint_id])
    return blueprint_id in {pair.blueprint for pair in pairs}


def _by_message(blueprint_id: str) -> bool:
    command = AdaptationCommand(
        run_id="r", type=CommandType.COMMAND_TYPE_SEED, seed_id="s1", command_id="c"
    )
    command.seed.operation = SeedOperation.SEED_OPERATION_GERMINATE
    command.seed.candidates.add(blueprint_id=blueprint_id)
    bus, nothing = cast(Any, _OneMessage(command)), cast(Any, None)
    service = KasminaService(bus, runs=nothing, breaker=nothing)
    asyncio.run(service.run(lambda: None))
    return service.detail()["carried"] != 0


class _OneMessage:
    """A bus with one signed command on it, and nothing after that."""

    def __init__(self, message: Message) -> None:
        self._message = message

    async def consume(self, topic: str, group: str, handler: Any, **_: Any) -> None:
        await handler(self._message, EventEnvelope())


def _grower(**changes: object) -> Grower:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Grower(
        model, optimizer, loss=nn.functional.cross_entropy, policy=PlantOnce(), state_dir=None,
        **changes,  # type: ignore[arg-type]
    )  # fmt: skip


def _batch() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 4), torch.zeros(6, dtype=torch.int64)


_PATHS: Mapping[str, Callable[[str], bool]] = {
    "a kernel built": _by_building,
    "a blueprint named": _by_name,
    "a command": _by_command,
    "a run file": _by_run_file,
    "an edited run": _by_edited_run,
    "a changed catalogue": _by_catalogue,
    "a forged certificate": _by_certificate,
    "a message": _by_message,
}
