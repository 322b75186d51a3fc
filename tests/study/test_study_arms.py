"""The arms that only a study has: growth by timing, an oracle, and growth with an idea less."""

import dataclasses
import json
from pathlib import Path

import pytest

from esper_async.kasmina.stage import Stage
from esper_async.study.ablations import ABLATIONS
from esper_async.study.cell import Cell, CellResult, Reference
from esper_async.study.conduct import arm_content
from esper_async.study.matched import MatchedPolicy
from esper_async.study.oracle import Oracle
from esper_async.study.plan import ArmPlan, Setting
from esper_async.study.running import run_cell
from esper_async.study.sizing import nearest_width, parameters
from esper_async.study.timing import StalledPolicy
from esper_async.tamiyo.command import Germinate, NoOp
from esper_async.tolaria.task import TaskError
from tests.study.small_task import make_task
from tests.tamiyo.test_policies import in_stage, view

SMALL = Path(__file__).parent / "small_task.py"


def seen(losses: list[float]):
    return dataclasses.replace(view(len(losses)), validation_losses=losses)


def test_growth_by_timing_waits_for_a_plateau():
    policy = StalledPolicy(0, window=3, least=0.01)
    assert isinstance(policy.decide(seen([1.0, 0.9])).command, NoOp)
    assert isinstance(policy.decide(seen([1.0, 0.9, 0.8, 0.7, 0.6])).command, NoOp)
    assert isinstance(policy.decide(seen([1.0, 0.6, 0.6, 0.599, 0.61])).command, Germinate)


def test_growth_by_timing_goes_on_where_it_was():
    first = StalledPolicy(3)
    first.decide(seen([1.0] * 14))
    state = json.loads(json.dumps(first.state_dict()))
    second = StalledPolicy(99)
    second.load_state_dict(state)
    assert first.decide(seen([1.0] * 14)).command == second.decide(seen([1.0] * 14)).command


def test_an_oracle_plants_what_is_planned_and_nothing_else():
    plantings = [
        {"boundary": 4, "site": "first", "blueprint": "BP001"},
        {"boundary": 4, "site": "second", "blueprint": "BP002"},
    ]
    oracle = Oracle(plantings)
    assert isinstance(oracle.decide(view(3)).command, NoOp)
    command = oracle.decide(view(4)).command
    assert isinstance(command, Germinate)
    assert [candidate.site for candidate in command.candidates] == ["first", "second"]


@pytest.mark.parametrize(("wanted", "width"), [(0, 2), (63, 6), (1e9, 64)])
def test_the_nearest_width_passes_over_those_that_are_refused(wanted: float, width: int):
    """Of a net of 10 w + 3 parameters, w even."""
    found = nearest_width(lambda each: make_task(width=each), parameters, wanted, widest=64)
    assert (found.width, found.measure) == (width, 10 * width + 3)


def test_a_task_that_takes_no_width_is_an_error():
    def never(width: int):
        raise TaskError(f"{width} is no width")

    with pytest.raises(TaskError, match="17 is no width"):
        nearest_width(never, parameters, 10, widest=64)


def test_a_matched_policy_plants_as_many_as_it_is_told_and_late_rather_than_never():
    policy = MatchedPolicy(0, [(4, 3), (9, 1)])
    assert isinstance(policy.decide(view(3)).command, NoOp)
    busy = [in_stage(Stage.TRAINING)]
    assert isinstance(policy.decide(view(4, seeds=busy)).command, NoOp)
    assert [planted(policy, boundary) for boundary in (6, 7, 8, 9, 10)] == [3, 0, 0, 1, 0]


def planted(policy: MatchedPolicy, boundary: int) -> int:
    command = policy.decide(view(boundary)).command
    return len(command.candidates) if isinstance(command, Germinate) else 0


def test_a_matched_policy_goes_on_where_it_was():
    first = MatchedPolicy(3, [(1, 2), (2, 2)])
    first.decide(view(1))
    second = MatchedPolicy(99, [(1, 2), (2, 2)])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert first.decide(view(2)).command == second.decide(view(2)).command


def cell(ablation: str = "", *, reference: Reference | None = None, **about) -> Cell:
    growth = {
        "dwell_steps": 4,
        "ramp_boundaries": 1,
        "window_boundaries": 1,
        "parameter_budget": 50.0,
        "shadow_every": 1,
        "g2_margin": -100.0,
        "g4_margin": -100.0,
    }
    told = {"policy": "heuristic", "growth": growth, "blueprints": ("BP014", "BP021")} | about
    arm = ArmPlan(**told, ablation=ablation)  # type: ignore[arg-type]
    return Cell(
        task_name="small",
        arm_name="arm",
        task={
            "task": f"{SMALL}:make_task", "epochs": 12, "options": {},
            "rate_option": "learning_rate", "schedule_option": "schedule", "labels": "true",
            "width": "width", "widest": 64,
        },
        arm=arm_content(arm, {}),
        primary="accuracy",
        setting=Setting(0.01),
        seed=3,
        tunes=True,
        reference=reference,
    )  # fmt: skip


def test_an_oracles_kernel_is_in_the_network_at_the_end():
    plantings = ({"boundary": 1, "site": "first.1", "blueprint": "BP014"},)
    run = run_cell(cell(kind="planted", policy="static", plantings=plantings), None)
    assert [(each["site"], each["blueprint"]) for each in run.kept] == [("first.1", "BP014")]


def test_the_host_alone_is_as_wide_as_costs_what_another_run_cost():
    """A unit of width costs 9 multiplications forward and 12 back: inputs want no gradient."""
    wanted = Reference(parameters=0, total_macs=(9 + 12) * 20 * 96 * 12)
    run = run_cell(cell(kind="costly", policy="static", than="x", reference=wanted), None)
    assert run.options == {"width": 20}
    assert run.total_macs == wanted.total_macs
    assert run.kept == ()


def test_a_cell_without_its_reference_is_refused():
    with pytest.raises(ValueError, match="without its reference"):
        run_cell(cell(kind="wide", policy="static", than="x"), None)


def test_a_run_is_the_same_twice_and_an_ablation_changes_it():
    whole, again, ablated = (run_cell(cell(name), None) for name in ("", "", "straight through"))
    assert whole.history == again.history
    assert whole.kept == again.kept
    assert whole.kept
    assert whole.history != ablated.history
    assert run_cell(cell(""), None).history == whole.history


def test_without_isolation_the_host_is_trained_by_what_is_planted_beside_it():
    """A candidate that comes to nothing leaves a host's losses as they are; here it does not."""
    growth = {"dwell_steps": 4, "parameter_budget": 50.0, "g2_margin": 1e9, "shadow_every": 1}
    about = {"growth": growth, "blueprints": ("BP014",)}
    isolated, joint = (run_cell(cell(name, **about), None) for name in ("", "no isolation"))
    static = run_cell(cell(policy="static"), None)
    assert isolated.planted == joint.planted != ()
    assert losses(isolated) == losses(static)
    assert losses(joint) != losses(static)


def losses(run: CellResult) -> list[float]:
    return [entry["validation_loss"] for entry in run.history]


def test_shadow_passes_for_what_is_not_kept_are_told_apart():
    run = run_cell(cell(), None)
    fates = {each["seed"]: each["to_stage"] for each in run.transitions}
    assert 0 < run.culled_macs < run.shadow_macs
    assert set(fates.values()) > {"FOSSILIZED"}
    nothing_kept = run_cell(cell(growth={"dwell_steps": 2, "g2_margin": 1e9}), None)
    assert nothing_kept.kept == ()
    assert nothing_kept.culled_macs == nothing_kept.shadow_macs > 0


def test_a_draw_is_the_same_growth_on_every_seed():
    def first_planted(seed: int, draw: int | None) -> tuple[str, str]:
        setting = Setting(0.01, draw=draw)
        about = dataclasses.replace(cell(policy="random"), seed=seed, setting=setting)
        transition = run_cell(about, None).transitions[0]
        return transition["site"], transition["blueprint"]

    assert len({first_planted(seed, 0) for seed in range(4)}) == 1
    assert len({first_planted(seed, None) for seed in range(4)}) > 1


def test_a_schedule_that_tuning_settles_is_the_tasks():
    one, other = (
        run_cell(dataclasses.replace(cell(policy="static"), setting=Setting(0.01, schedule)), None)
        for schedule in ("constant", "cosine")
    )
    assert losses(one) != losses(other)


def test_every_ablation_that_a_plan_may_name_there_is():
    for name in ABLATIONS:
        assert ArmPlan(ablation=name).ablation == name


def test_names_of_tasks_and_arms_are_no_part_of_a_results_key():
    one = cell("")
    assert one.key("code") == dataclasses.replace(one, arm_name="other").key("code")
    assert one.key("code") != dataclasses.replace(one, setting=Setting(0.02)).key("code")
    assert one.key("code") != one.key("other code")
    assert Cell.from_json(json.loads(json.dumps(one.to_json()))).key("code") == one.key("code")
