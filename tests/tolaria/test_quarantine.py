"""No path leads an adversarial kernel into a live run; each that was tried has a test here.

Requests over HTTP, on the bus and to Karn are refused where they arrive: see `test_api_runs`,
`test_forge_worker`, `test_kasmina_service` and `test_selection`.
"""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from esper_async import Grower, grow
from esper_async.karn.catalogue import Catalogue, Query
from esper_async.karn.errors import QuarantinedError
from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import QUARANTINE, KernelRefusedError, build_kernel
from esper_async.kasmina.legal import MemoryStore, certify, legal_pairs
from esper_async.kasmina.planting import CommandRefusedError
from esper_async.kasmina.proof import certificate_key
from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.sites import Site
from esper_async.runtime.strict_model import ConfigurationError
from esper_async.tamiyo.command import Germinate
from esper_async.tolaria.options import RunChangedError, options_from_run
from esper_async.tolaria.run_file import parse_run
from tests.kasmina.plots import Plot
from tests.tolaria.growth_tasks import BLUEPRINTS, QUICK, listed

ADVERSARIAL = sorted(key for key in QUARANTINE if key.startswith("BP"))
FLAT = SiteInterface("feature", (4,))
each_one = pytest.mark.parametrize("blueprint_id", ADVERSARIAL)


@pytest.mark.parametrize(
    "growth", [{"tiers": ["adversarial"]}, {"drill": True}, {"blueprints": ["BP045"]}]
)
def test_a_run_file_cannot_ask_for_one(growth: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        parse_run({"run": {"task": "a:b"}, "growth": growth})


@each_one
def test_neither_grow_nor_a_grower_plants_one_by_name(blueprint_id: str) -> None:
    task = listed()
    with pytest.raises(KernelRefusedError, match="refused for every live run"):
        grow(task, epochs=1, blueprints=[blueprint_id], state_dir=None)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
    with pytest.raises(KernelRefusedError, match="refused for every live run"):
        Grower(task.model, optimizer, loss=task.loss, blueprints=[blueprint_id])


@each_one
def test_a_command_to_plant_one_is_refused_whoever_gives_it(blueprint_id: str) -> None:
    task = listed()
    grower = Grower(
        task.model, torch.optim.SGD(task.model.parameters(), lr=0.1), loss=task.loss,
        policy="heuristic", growth=QUICK, blueprints=BLUEPRINTS, state_dir=None,
    )  # fmt: skip
    grower.prepare(next(iter(task.train_loader)))
    command = Germinate((Candidate(grower.sites[0].name, blueprint_id),))
    with pytest.raises(CommandRefusedError, match="its tier is not allowed in this run"):
        grower.carry_out(command)


@each_one
def test_an_executor_builds_none_even_if_nobody_checked_the_command(blueprint_id: str) -> None:
    plot = Plot("mlp", drill=False)
    with pytest.raises((KernelRefusedError, CommandRefusedError), match="refused for every live"):
        plot.plant(blueprint_id)


@pytest.mark.parametrize(
    "change",
    [
        {"tiers": ["adversarial"]},
        {"tiers": ["production", "planted"]},
        {"tiers": ["adversarial"], "drill": True},
        {"drill": True},
    ],
)
def test_a_run_whose_stored_configuration_was_edited_is_refused(change: dict[str, Any]) -> None:
    stored = parse_run({"run": {"task": "a:b"}}).model_dump(mode="json")
    options_from_run(stored)
    stored = json.loads(json.dumps(stored))
    stored["growth"].update(change)
    with pytest.raises(RunChangedError, match=r"run\.json"):
        options_from_run(stored)


@each_one
def test_a_checkpoint_that_was_edited_to_hold_one_cannot_be_resumed(blueprint_id: str) -> None:
    plot = Plot("mlp", drill=False)
    plot.plant("BP012")
    state = copy.deepcopy(plot.executor.state_dict())
    assert "BP012" in str(state["seeds"][0]["candidate"])
    state["seeds"][0]["candidate"]["blueprint"] = blueprint_id
    with pytest.raises(KernelRefusedError, match="refused for every live run"):
        Plot("mlp", drill=False).executor.load_state_dict(state)


@each_one
def test_a_catalogue_that_calls_one_production_does_not_open_the_quarantine(
    blueprint_id: str,
) -> None:
    records = [
        replace(each, tier="production", risk=0.0) if each.id == blueprint_id else each
        for each in Catalogue().records
    ]
    tampered = Catalogue(records)
    with pytest.raises(QuarantinedError):
        tampered.get(blueprint_id)
    query = Query(tiers=("production", "experimental"))
    assert blueprint_id not in {record.id for record in tampered.query(query)}
    assert blueprint_id not in {record.id for record in tampered.conservative(query)}


@each_one
def test_a_certificate_for_one_makes_it_legal_nowhere(blueprint_id: str) -> None:
    store, site = MemoryStore(), Site("here", "here", FLAT, "nf", 0)
    key = certify("BP012", site, store).key
    forged = dict(store.certificate(key) or {}, blueprint_id=blueprint_id)
    store.put_certificate(
        certificate_key(blueprint_id, FLAT), forged, blueprint=blueprint_id, interface=FLAT.key
    )
    pairs = legal_pairs([site], store, tiers=["production", "experimental", "adversarial"])
    assert {pair.blueprint for pair in pairs}.isdisjoint(ADVERSARIAL)


@each_one
def test_its_tier_is_what_its_own_file_says_whatever_the_catalogue_does(blueprint_id: str) -> None:
    with pytest.raises(KernelRefusedError, match="refused for every live run"):
        build_kernel(blueprint_id, FLAT, seed=0)
