"""Building a kernel: deterministic, bounded, and never for a live run when it is quarantined."""

import pickle
import random
import subprocess
import sys
from statistics import median
from time import process_time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import (
    QUARANTINE,
    REGISTRY,
    Blueprint,
    Kernel,
    KernelRefusedError,
    SettingRefusedError,
    blueprints_for,
    build_kernel,
    register,
)
from tests.kasmina.kernel_sites import PLANTINGS, planting_id

LINE = SiteInterface("spatial", (8, 1, 20))


@pytest.mark.parametrize(("blueprint_id", "site"), PLANTINGS, ids=planting_id)
def test_one_seed_gives_the_same_weights_and_touches_no_other_random_state(
    blueprint_id: str, site: SiteInterface
) -> None:
    torch.manual_seed(5)
    random.seed(5)
    before, python_before = torch.random.get_rng_state(), random.getstate()
    first = build_kernel(blueprint_id, site, seed=11).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert random.getstate() == python_before
    torch.rand(3)
    again = build_kernel(blueprint_id, site, seed=11).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())


def test_another_seed_gives_other_weights() -> None:
    one, other = (build_kernel("BP009", LINE, seed=seed).state_dict() for seed in (1, 2))
    assert not torch.equal(one["widen.weight"], other["widen.weight"])


def test_the_callers_defaults_do_not_reach_a_kernel() -> None:
    plain = build_kernel("BP009", LINE, seed=1)
    with torch.device("meta"), torch.inference_mode():
        kernel = build_kernel("BP009", LINE, seed=1)
    assert all(p.device.type == "cpu" and not p.is_inference() for p in kernel.parameters())
    assert torch.equal(plain.widen.weight, kernel.widen.weight)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("blueprint_id", sorted(REGISTRY))
def test_a_kernel_is_built_within_five_milliseconds(blueprint_id: str) -> None:
    site = next(site for known, site in PLANTINGS if known == blueprint_id)
    times = []
    for seed in range(7):
        began = process_time()
        build_kernel(blueprint_id, site, seed=seed)
        times.append((process_time() - began) * 1e3)
    assert median(times) <= 5.0


def test_a_parameter_within_bounds_is_used() -> None:
    kernel = build_kernel("BP009", LINE, {"width": 20, "kernel_size": 3}, seed=0)
    assert kernel.widen.weight.shape == (20, 8, 1, 3)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"width": 5000}, r"BP009.*width = 5000: expected a whole number from 4 to 1024"),
        ({"width": 2.5}, r"width = 2.5: expected a whole number"),
        ({"width": True}, r"width = True: expected a whole number"),
        ({"kernel_size": 4}, r"kernel_size = 4: expected an odd whole number"),
        ({"widht": 16}, r"unknown parameter 'widht'; the nearest is 'width'"),
    ],
)
def test_a_parameter_out_of_bounds_is_refused_by_name(
    parameters: dict[str, object], words: str
) -> None:
    with pytest.raises(SettingRefusedError, match=words):
        build_kernel("BP009", LINE, parameters, seed=0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_approved_parameter_builds_a_kernel_that_runs(data: st.DataObject) -> None:
    blueprint_id, site = data.draw(st.sampled_from(PLANTINGS))
    chosen: dict[str, object] = {}
    for setting in REGISTRY[blueprint_id].blueprint.settings:
        values = st.integers(setting.low, min(setting.high, 96))
        chosen[setting.name] = data.draw(values.filter(lambda v, s=setting: v % 2 or not s.odd))
    kernel = build_kernel(blueprint_id, site, chosen, seed=0)
    h = torch.randn(2, *site.shape)
    assert kernel(h).shape == h.shape


def test_a_kernel_that_does_not_fit_says_why() -> None:
    with pytest.raises(KernelRefusedError, match="takes spatial or sequence interfaces, not feat"):
        build_kernel("BP032", SiteInterface("feature", (8,)), seed=0)
    with pytest.raises(KernelRefusedError, match="at least 2 channels, not 1"):
        build_kernel("BP009", SiteInterface("feature", (1,)), seed=0)
    with pytest.raises(KernelRefusedError, match="at most 1024 positions, not 4096"):
        build_kernel("BP020", SiteInterface("spatial", (4, 64, 64)), seed=0)


def test_an_unknown_blueprint_is_refused_with_the_known_ones() -> None:
    with pytest.raises(KernelRefusedError, match="no kernel 'BP999'; there are BP001"):
        build_kernel("BP999", LINE, seed=0)


@pytest.mark.parametrize("clash", [{"id": "BP009"}, {"name": "residual_block"}])
def test_a_duplicate_id_or_name_is_refused(clash: dict[str, str]) -> None:
    declared = {"id": "BP998", "name": "something_new", **clash}
    blueprint = Blueprint(
        **declared, stage=0, risk=0.0, output="change", description="", kinds=("feature",)
    )
    before = dict(REGISTRY)
    with pytest.raises(ValueError, match="already taken by ResidualBlock"):
        register(blueprint)(type("Clash", (Kernel,), {}))
    assert before == REGISTRY


@pytest.mark.parametrize("blueprint_id", sorted(QUARANTINE))
def test_a_quarantined_kernel_is_refused_for_a_live_run(blueprint_id: str) -> None:
    with pytest.raises(KernelRefusedError, match="refused for every live run"):
        build_kernel(blueprint_id, LINE, seed=0)
    assert blueprint_id not in {blueprint.id for blueprint in blueprints_for(LINE)}
    build_kernel(blueprint_id, LINE, seed=0, drill=True)
    assert blueprint_id in {blueprint.id for blueprint in blueprints_for(LINE, drill=True)}


def test_a_pickled_kernel_needs_only_torch_and_the_kernels_package() -> None:
    blob = pickle.dumps(build_kernel("BP023", LINE, seed=0))
    program = (
        "import pickle, sys\n"
        "kernel = pickle.loads(sys.stdin.buffer.read())\n"
        "ours = {name for name in sys.modules if name.startswith('esper_async')}\n"
        "allowed = {'esper_async', 'esper_async.kasmina', 'esper_async.kasmina.interface'}\n"
        "odd = {n for n in ours - allowed if not n.startswith('esper_async.kasmina.kernels')}\n"
        "print(type(kernel).__name__, sorted(odd))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=blob, capture_output=True, check=True
    )
    assert done.stdout.decode().split(maxsplit=1) == ["TransformerBlock", "[]\n"]
