"""What a graph policy must do in whatever state it is asked: something legal, in time."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from esper_async.simic.soundness import LATENCY_LIMIT_S
from esper_async.tamiyo.command_legality import why_illegal
from esper_async.tamiyo.imitation.states import StateDraw
from esper_async.tamiyo.policies import Policy
from esper_async.tamiyo.view import SeedView, View

STATES = 60
_SITES = (1, 16)


def graph_faults(
    policy: Policy, *, seed: int = 0, clock: Callable[[], float] = time.thread_time
) -> list[str]:
    """Return in words what is wrong with a graph policy; empty if nothing is.

    It is asked about drawn states of all kinds, a third of them without anything that was measured:
    each command must be legal, and drawn with a probability above nought. `clock` is in seconds.
    """
    found: dict[str, None] = {}
    took = []
    for view in _states(seed):
        began = clock()
        try:
            decision = policy.decide(view)
        except Exception as error:  # noqa: BLE001 - whatever it raises is what is wrong with it
            found[f"it raises {type(error).__name__}: {error}"] = None
            continue
        took.append(clock() - began)
        illegal = why_illegal(decision.command, view)
        if illegal is not None:
            found[f"it gives a command that is not legal: {illegal}"] = None
        probability = decision.probability
        if probability is None or not (math.isfinite(probability) and probability > 0.0):
            found[f"it gives a command with the probability {probability}"] = None
    middle = sorted(took)[len(took) // 2] if took else 0.0
    if not middle <= LATENCY_LIMIT_S:
        told = f"a decision takes {1e3 * middle:.1f} ms, {1e3 * LATENCY_LIMIT_S:g} are allowed"
        found[told] = None
    return list(found)


def _states(seed: int) -> Iterator[View]:
    draw = StateDraw(seed)
    for number in range(STATES):
        view = draw.view(sites=_SITES)
        yield _unmeasured(view) if number % 3 == 2 else view


def _unmeasured(view: View) -> View:
    """Return the same state with nothing measured of its seeds, its gradients and its machine."""
    seeds = [SeedView(s.id, s.site, s.blueprint, s.stage, s.parameters) for s in view.seeds]
    return replace(view, seeds=seeds, gradient_rms={}, machine=None, training_losses=[])
