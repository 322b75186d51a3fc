"""Masks follow the lifecycle's own table, and say what the executor would say."""

import pytest
import torch

from esper_async.kasmina.executor import Executor
from esper_async.kasmina.operations import VERBS, Tuning, operate
from esper_async.kasmina.planting import CommandRefusedError
from esper_async.kasmina.stage import ACTIVE, TRANSITIONS, Stage
from esper_async.tamiyo.graph.builder import GraphBuilder
from esper_async.tamiyo.legality import GERMINATE, NO_OP, OPERATIONS, is_legal
from tests.tamiyo.graph_views import seed, view


class Refusing:
    """An executor that knows one seed, and does nothing."""

    def __init__(self, stage: Stage) -> None:
        self.known = type("S", (), {"id": "s1", "stage": stage, "tournament": "t1"})()
        self.free_training_slots = 0
        self.trial = type("T", (), {"held": False, "ramp_again": lambda *_: None})()
        self.steps_per_boundary = 1

    def seed(self, _name: str) -> object:
        return self.known

    def in_stage(self, *_stages: Stage) -> list[object]:
        return []

    def cull(self, _name: str, _reason: str) -> None:
        return

    def judge_now(self, _seed: object) -> None:
        return


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("verb", VERBS)
def test_an_operation_is_legal_where_the_executor_does_not_refuse_the_stage(
    verb: str, stage: Stage
) -> None:
    executor: Executor = Refusing(stage)  # type: ignore[assignment]
    tuning = Tuning(ramp="cosine") if verb == "FINE_TUNE" else None
    try:
        operate(executor, "s1", verb, tuning)  # type: ignore[arg-type]
        refused = False
    except CommandRefusedError:
        refused = True
    assert is_legal(verb, stage) is not refused  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", list(Stage))
def test_a_cull_is_legal_for_every_active_seed_and_no_other(stage: Stage) -> None:
    assert is_legal("CULL", stage) is (stage in ACTIVE)
    assert is_legal("CULL", stage) is (
        Stage.CULLED in TRANSITIONS[stage] and stage is not Stage.CULLED
    )


def test_with_nothing_to_act_on_only_no_operation_is_legal() -> None:
    state = GraphBuilder().state(view(planting=False, seeds=[seed("s1", Stage.FOSSILIZED)]))
    assert state.operation_legal.nonzero().flatten().tolist() == [NO_OP]


def test_a_germination_is_legal_where_something_may_be_planted() -> None:
    assert GraphBuilder().state(view()).operation_legal[GERMINATE]
    assert not GraphBuilder().state(view(free=0)).operation_legal[GERMINATE]
    assert not GraphBuilder().state(view(planting=False)).operation_legal[GERMINATE]


def test_padding_is_never_a_target() -> None:
    state = GraphBuilder().state(view(seeds=[seed("s1", Stage.TRAINING)]))
    assert state.seed_legal.shape == (len(OPERATIONS), state.structure.sizes.seeds)
    assert not torch.any(state.seed_legal[:, 1:])
