"""Hosts in channels-last layout: their sites say so, and their seeds lie as they do."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esper_async.kasmina.call import default_forward
from esper_async.kasmina.legal import MemoryStore, certify
from esper_async.kasmina.sites import find_sites
from esper_async.tolaria.control import Steer
from esper_async.tolaria.site_state import restore_site, site_state
from esper_async.tolaria.task import Task
from tests.growth_hosts import differing, make_batches, make_host
from tests.tolaria.test_engine import Script, run

LAST = torch.channels_last
ROOT = Path(__file__).parents[2]

# In a process of its own: torch 2.8 has ended one in a backward pass of such weights.
LIVES = """
import copy
import torch
from esper_async.kasmina.kernels import blueprints_for
from esper_async.kasmina.legal import MemoryStore, certify
from tests.growth_hosts import differing, make_host
from tests.kasmina.plots import Plot

torch.set_num_threads(1)

def grown():
    model = make_host('conv2d').to(memory_format=torch.channels_last)
    plot = Plot('conv2d', model=model, sites={'here': 'stem', 'next': 'body'}, g4_margin=-1e9)
    plot.batches = [(x.to(memory_format=torch.channels_last), y) for x, y in plot.batches]
    return plot

def weights_of(plot):
    modules = (plot.model, *plot.executor.modules())
    return [p for module in modules for p in module.parameters() if p.ndim == 4]

def is_last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last)

site = grown().executor.sites['here']
for blueprint in blueprints_for(site.interface):
    certificate = certify(blueprint.id, site, MemoryStore())
    assert certificate.passed, certificate.failures
    plot = grown()
    plot.plant(blueprint.id)
    plot.step(0)
    assert all(map(is_last, weights_of(plot))), blueprint.id

plot = grown()
plot.plant('BP015')
plot.until('BLENDING')
plot.plant('BP009', site='next')
plot.step(0)
saved = copy.deepcopy(plot.executor.state_dict())
other = grown()
other.executor.load_state_dict(saved)
for each in (plot, other):
    torch.manual_seed(3)
    for index in range(4):
        each.step(index)
assert differing(plot.executor.state_dict(), other.executor.state_dict()) == []
plot.until('FOSSILIZED')
assert is_last(plot.model.stem(plot.batches[0][0]))
assert all(map(is_last, weights_of(plot)))
"""


def test_seeds_of_every_blueprint_live_in_a_channels_last_host_and_lie_as_it_does(
    tmp_path: Path,
) -> None:
    program = tmp_path / "program.py"
    program.write_text(LIVES)
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("last", [False, True])
def test_a_sites_layout_is_in_its_interface_and_in_its_certificates(last: bool) -> None:
    model = make_host("conv2d")
    if last:
        model.to(memory_format=LAST)  # type: ignore[call-overload]
    sites = find_sites(model, default_forward, make_batches("conv2d")[0])
    wanted = "channels_last" if last else "contiguous"
    assert [site.interface.layout for site in sites if site.form == "nchw"] == [wanted] * 2
    assert restore_site(site_state(sites[0])) == sites[0]
    certificate = certify("BP014", sites[0], MemoryStore())
    assert certificate.layout == wanted
    assert wanted in certificate.key
    assert certificate.passed


def test_activations_that_lie_both_ways_at_once_are_contiguous() -> None:
    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    model.to(memory_format=LAST)  # type: ignore[call-overload]
    batch = torch.zeros(4, 2, 1, 1).to(memory_format=LAST), torch.zeros(4, dtype=torch.long)
    (site, *_) = find_sites(model, default_forward, batch)
    assert site.interface.layout == "contiguous"


def lying_last() -> Task:
    batches = [(x.to(memory_format=LAST), y) for x, y in make_batches("conv2d", count=6)]
    return Task(
        model=make_host("conv2d").to(memory_format=LAST),  # type: ignore[call-overload]
        train_loader=batches[:4],
        validation_loader=batches[4:],
        loss=F.cross_entropy,
    )


def test_a_channels_last_run_is_drained_and_goes_on_bitwise(tmp_path: Path) -> None:
    whole, _ = run(lying_last(), epochs=10)
    assert any(move["to_stage"] == "BLENDING" for move in whole.transitions)
    run(lying_last(), tmp_path, Script({22: [Steer("drain")]}), epochs=10)
    rest, _ = run(lying_last(), tmp_path, epochs=10)
    mine: dict[str, Any] = dict(whole.grower.model.state_dict())
    assert differing(mine, dict(rest.grower.model.state_dict())) == []
    assert [t.stride() for t in mine.values()] == [
        t.stride() for t in rest.grower.model.state_dict().values()
    ]
