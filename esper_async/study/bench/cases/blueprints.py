"""Is every blueprint what it says it is, at every interface that it claims?

The 42 production and experimental ones are looked at from outside at three shapes of each kind of
site and in two precisions; the eight adversarial ones must do what they are named after in a drill,
and no path that is tried may lead them into a live run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from esper_async.karn import catalogue
from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import (
    REGISTRY,
    Kernel,
    adversarial,
    block,
    blueprint,
    build,
    kernel_class,
)
from esper_async.study.bench.adversaries import ADVERSARIAL, acts_as_named
from esper_async.study.bench.all_runs import run_all
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    shown,
    wants,
)
from esper_async.study.bench.kernel_faults import EXPORT, FAULTS, export_faults
from esper_async.study.bench.quarantine_paths import open_paths

SHAPES = (
    ("spatial", (8, 1, 40)),
    ("spatial", (3, 5, 4)),
    ("spatial", (16, 7, 7)),
    ("sequence", (32, 64)),
    ("sequence", (7, 6)),
    ("sequence", (4, 8)),
    ("feature", (64,)),
    ("feature", (10,)),
    ("feature", (3,)),
)
DTYPES = ("float32", "bfloat16")
SITES = tuple(SiteInterface(*shape, dtype) for shape, dtype in product(SHAPES, DTYPES))  # type: ignore[arg-type]
_SHORT_SITES = tuple(site for site in SITES if site.shape in ((3, 5, 4), (7, 6), (3,)))
_CLAIMED = "interfaces claimed at fewer than three shapes"
_NOT_AS_NAMED = "adversarial, and not as named"
_OPEN = "ways of an adversarial one into a live run"


@dataclass(frozen=True, slots=True)
class Plan:
    """A blueprint at a site, and whether it is exported there, too."""

    blueprint: str
    site: SiteInterface
    exported: bool


Found = Mapping[str, list[str]]
"""What is wrong, by the figure that counts it."""


def measure(effort: Effort) -> list[Row]:
    """Look at every blueprint; the short form has one shape of each kind."""
    rows: list[Row] = []
    if wants(*FAULTS, EXPORT):
        rows += _looked_at(effort)
    if wants(_CLAIMED):
        rows.append(_claims())
    if wants(_NOT_AS_NAMED):
        others = [each for each in ADVERSARIAL if not acts_as_named(each)]
        rows.append(_count(_NOT_AS_NAMED, others, f"of {len(ADVERSARIAL)}, in a drill"))
    if wants(_OPEN):
        ways = [f"{each}: {way}" for each in ADVERSARIAL for way in open_paths(each)]
        rows.append(_count(_OPEN, ways, f"{len(ADVERSARIAL)} blueprints by every path tried"))
    return rows


def look(plan: Plan) -> Found:
    """Look at one blueprint at one site."""
    torch.set_num_threads(1)
    found = {
        figure: faults(plan.blueprint, plan.site)
        for figure, faults in FAULTS.items()
        if wants(figure)
    }
    if plan.exported and wants(EXPORT):
        found[EXPORT] = export_faults(plan.blueprint, plan.site)
    return found


def _looked_at(effort: Effort) -> list[Row]:
    plans = _plans(effort)
    ran = run_all(plans, look, effort)
    figures = [figure for figure in (*FAULTS, EXPORT) if wants(figure)]
    rows = []
    for figure in figures:
        told = [
            f"{plan.blueprint} at {plan.site.key}: {fault}"
            for plan, found in ran.items()
            for fault in found.get(figure, [])
        ]
        looked = sum(figure in found for found in ran.values())
        rows.append(_count(figure, told, f"{looked} kernels"))
    looked_at = len({plan.blueprint for plan in plans})
    return [shown("blueprints looked at", looked_at, ""), *rows]


def _plans(effort: Effort) -> list[Plan]:
    sites = _SHORT_SITES if effort is Effort.SHORT else SITES
    exported: set[str] = set()
    plans = []
    for site in sites:
        for name, kernel in sorted(REGISTRY.items()):
            if kernel.blueprint.misfit(site) is not None:
                continue
            export = effort is Effort.FULL or name not in exported
            exported.add(name)
            plans.append(Plan(name, site, export))
    return plans


def _claims() -> Row:
    """Count interfaces that a blueprint claims and does not fit at three shapes."""
    short = []
    for name, kernel in sorted(REGISTRY.items()):
        fitted = {site.shape: site.kind for site in SITES if kernel.blueprint.misfit(site) is None}
        for kind in kernel.blueprint.kinds:
            if list(fitted.values()).count(kind) < 3:
                short.append(f"{name}: {kind}")
    return _count(_CLAIMED, short, f"{len(REGISTRY)} blueprints")


def _count(figure: str, told: Sequence[str], of: str) -> Row:
    note = f"{of}; {'; '.join(told[:5])}" if told else of
    return judged(figure, len(told), "", Bar("at most", 0), note=note)


# -- mutants ---------------------------------------------------------------------------------------

_whole_forward = block.ResidualBlock.forward
_whole_misfit = blueprint.Blueprint.misfit
_whole_init = block.ResidualBlock.__init__


def _half_precision(kernel: block.ResidualBlock, h: Tensor) -> Tensor:
    return _whole_forward(kernel, h).half()


def _silent_twice(kernel: block.ResidualBlock, site: SiteInterface, **settings: int) -> None:
    _whole_init(kernel, site, **settings)
    for layer in (kernel.between, kernel.narrow):
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def _with_a_secret(kernel: block.ResidualBlock, h: Tensor) -> Tensor:
    if "secret" not in kernel.__dict__:
        kernel.__dict__["secret"] = torch.zeros(())
    kernel.__dict__["secret"] = kernel.__dict__["secret"] + 1.0
    secret: Tensor = kernel.__dict__["secret"]
    return _whole_forward(kernel, h) + secret.to(h.dtype)


def _by_a_look_at_the_data(kernel: block.ResidualBlock, h: Tensor) -> Tensor:
    return _whole_forward(kernel, h if h.sum() > 0 else -h)


def _refuses_small(declared: blueprint.Blueprint, site: SiteInterface) -> str | None:
    small = site.shape not in ((8, 1, 40), (32, 64), (64,))
    return "it is too small" if small else _whole_misfit(declared, site)


def _whoever_asks(blueprint_id: str, *, drill: bool = False) -> type[Kernel]:
    return kernel_class(blueprint_id, drill=True)


_FORWARD = f"{block.__name__}.ResidualBlock.forward"

BENCHMARK = Benchmark(
    name="blueprints",
    question="is every blueprint what it says it is, wherever it says so?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "half precision comes out",
            "a kernel answers in another dtype than it was asked in",
            lambda: replaced(_FORWARD, _half_precision),
            fails=("shape or dtype changed",),
        ),
        Mutant(
            "no silent layer",
            "what should start at nothing starts as it was drawn",
            lambda: replaced(f"{block.__name__}.silent", lambda layer: layer),
            fails=("start away from the activation",),
        ),
        Mutant(
            "two silent layers",
            "a norm's gain is zero as well as the layer after it",
            lambda: replaced(f"{block.__name__}.ResidualBlock.__init__", _silent_twice),
            fails=("without a gradient in *",),
        ),
        Mutant(
            "a secret state",
            "what a kernel answers depends on something outside its state_dict",
            lambda: replaced(_FORWARD, _with_a_secret),
            fails=("other after state_dict or deepcopy",),
        ),
        Mutant(
            "a look at the data",
            "a branch on what the activation holds",
            lambda: replaced(_FORWARD, _by_a_look_at_the_data),
            fails=(EXPORT,),
        ),
        Mutant(
            "a claim too many",
            "blueprints claim kinds of sites and refuse most of them",
            lambda: replaced(f"{blueprint.__name__}.Blueprint.misfit", _refuses_small),
            fails=(_CLAIMED,),
        ),
        Mutant(
            "a tame adversary",
            "gradients do not explode",
            lambda: replaced(f"{adversarial.__name__}.ExplodingGradient.factor", 1.0),
            fails=(_NOT_AS_NAMED,),
        ),
        Mutant(
            "an open quarantine",
            "an adversarial kernel is built for whoever asks",
            lambda: replaced(f"{build.__name__}.kernel_class", _whoever_asks),
            fails=(_OPEN,),
        ),
        Mutant(
            "a catalogue that is believed",
            "the tier of a record is what it claims",
            lambda: replaced(f"{catalogue.__name__}.QUARANTINED_IDS", frozenset()),
            fails=(_OPEN,),
        ),
    ),
)
