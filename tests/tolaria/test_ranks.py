"""Several processes train one network that grows: real ranks, under `torchrun`."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esper_async import DistributedRanks, Grower
from esper_async.kasmina.evaluation import Evaluation
from esper_async.kasmina.evaluation_form import EVALUATIONS
from esper_async.kasmina.ranks import LOCAL, differences, json_form
from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.seed_state import saved_seed
from esper_async.kasmina.stage import Stage
from esper_async.runtime.processes import processes_naming
from esper_async.tamiyo.command import Cull, Decision, Germinate, NoOp, decision_from_json
from tests.growth_hosts import differing, make_host
from tests.tolaria.rank_runs import BOUNDARIES, RANKS, SAVED, launch

_BROKEN = (
    "not_averaged",
    "living_wrap",
    "around_the_wrap",
    "old_wrap",
    "other_options",
    "other_host",
    "other_state",
    "broken_loader",
)


class Runs:
    """What the ranks of every scenario left behind."""

    def __init__(self, folder: Path, *lives: str, ranks: int = RANKS) -> None:
        self.folder = folder
        launch(folder, *lives, ranks=ranks)
        self._ranks = ranks
        self._loaded: dict[str, list[Any]] = {}

    def of(self, scenario: str) -> list[Any]:
        """Return what each rank left, in the order of ranks."""
        if scenario not in self._loaded:
            paths = [self.folder / f"{scenario}-{rank}.pt" for rank in range(self._ranks)]
            self._loaded[scenario] = [torch.load(path, weights_only=True) for path in paths]
        return self._loaded[scenario]

    def stages(self, boundary: int) -> list[Stage]:
        """Return the stages of the seeds after a boundary of the whole run."""
        state = self.of("whole")[0]["states"][boundary - 1]
        return [Stage(saved_seed(each)["stage"]) for each in state["executor"]["seeds"]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Everything that two ranks do, in one launch: importing torch is most of what it costs."""
    first = "+".join(("whole", "plain", "accumulated", *_BROKEN))
    return Runs(tmp_path_factory.mktemp("ranks"), first, "resumed")


def same(one: Any, other: Any) -> list[str]:
    """Return where two ranks' states differ; streams do on purpose, for dropout's sake."""
    return [path for path in differing(one, other) if not path.endswith("/stream")]


def test_replicas_are_bitwise_equal_after_every_boundary(runs: Runs) -> None:
    """Weights, buffers, seeds, twins, averages, optimizer states: all that a checkpoint holds."""
    first, *others = [done["states"] for done in runs.of("whole")]
    assert len(first) == BOUNDARIES
    for boundary, states in enumerate(zip(first, *others, strict=True), start=1):
        for other in states[1:]:
            assert same(states[0], other) == [], f"boundary {boundary}"


def test_the_run_went_through_every_change_of_the_network(runs: Runs) -> None:
    seen = [runs.stages(boundary) for boundary in range(1, BOUNDARIES + 1)]
    assert seen[1] == [Stage.TRAINING] * 2
    assert seen[2] == [Stage.BLENDING, Stage.CULLED]
    assert seen[5][0] is seen[-1][0] is Stage.FOSSILIZED
    assert seen[7][2] is Stage.BLENDING
    assert seen[8][2] is Stage.CULLED
    states = runs.of("whole")[0]["states"]
    for boundary in (3, 8):
        assert states[boundary - 1]["executor"]["trial"]["twin"] is not None
    kernels = [states[boundary - 1]["executor"]["seeds"][0]["graft"] for boundary in (9, 11)]
    assert differing(*kernels) != []  # the kept seed trains on


def test_streams_are_each_ranks_own(runs: Runs) -> None:
    first, other = (done["states"][3]["executor"]["trial"]["stream"] for done in runs.of("whole"))
    assert not torch.equal(first, other)


def test_the_wrap_is_the_same_object_until_the_network_changes(runs: Runs) -> None:
    blended, culled = (3, 8), (9,)
    for done in runs.of("whole"):
        changed = [number for number, is_new in enumerate(done["changes"], start=2) if is_new]
        assert changed == sorted(blended + culled)


def test_in_training_the_host_is_bitwise_what_it_is_without_a_grower(runs: Runs) -> None:
    for rank, (grown, plain) in enumerate(zip(runs.of("whole"), runs.of("plain"), strict=True)):
        parameters = {name for name, _ in make_host("conv2d").named_parameters()}
        for state, host in zip(grown["states"], plain, strict=False):
            branch = state["executor"]["branch"]
            for name, expected in host["model"].items():
                # the buffers of other ranks are overwritten with rank 0's at the next forward pass
                if rank == 0 or name in parameters:
                    assert torch.equal(branch["model"][name], expected), name
            assert differing(branch["optimizer"], host["optimizer"]) == []


@pytest.mark.parametrize("boundary", SAVED)
def test_ranks_that_load_what_rank_0_saved_go_on_bitwise(runs: Runs, boundary: int) -> None:
    for rank, (done, whole) in enumerate(zip(runs.of("resumed"), runs.of("whole"), strict=True)):
        compare = differing if rank == 0 else same  # streams of seeds past TRAINING are not used
        assert compare(done[boundary], whole["states"][-1]) == []


def test_accumulation_and_an_overflow_on_one_rank_keep_the_replicas_equal(runs: Runs) -> None:
    first, *others = runs.of("accumulated")
    assert first["skipped"] > 0
    assert first["stages"]
    for other in others:
        assert other["skipped"] == first["skipped"]
        assert same(first["state"], other["state"]) == []


@pytest.mark.parametrize(
    ("scenario", "named"),
    [
        ("not_averaged", "seed s1's kernel"),
        ("living_wrap", "esper_s1"),
        ("around_the_wrap", "stem.0.weight"),
    ],
)
def test_replicas_that_part_are_found_at_the_next_boundary(
    runs: Runs, scenario: str, named: str
) -> None:
    """The mutants of this file: no averaging, the wrap of a smaller network, no wrap."""
    first, *others = runs.of(scenario)
    for other in others:
        assert differing(first["weights"], other["weights"]) != []
    for done in (first, *others):
        assert done["error"].startswith("RanksDifferError: the ranks differ: on rank 1, ")
        assert named in done["error"]
        assert "grower.trained_model" in done["error"]


def test_a_wrap_of_before_a_change_cannot_be_trained(runs: Runs) -> None:
    for done in runs.of("old_wrap"):
        assert "call grower.trained_model anew" in done["error"]


@pytest.mark.parametrize(
    ("scenario", "told"),
    [
        ("other_options", "on rank 1, growth.dwell_steps: 9 (on rank 0: 8)"),
        ("other_host", "on rank 1, model.head.weight: (4, 8) of float32, trained (on rank 0: (3, "),
        (
            "other_state",
            "on rank 1, seed s1: BP015 at stem in PROBATIONARY (on rank 0: BP015 at stem ",
        ),
    ],
)
def test_ranks_that_differ_from_the_start_are_told_in_what(
    runs: Runs, scenario: str, told: str
) -> None:
    for done in runs.of(scenario):
        assert done["error"].startswith("RanksDifferError")
        assert told in done["error"]


def test_what_rank_0_raises_ends_the_wait_of_the_others(runs: Runs) -> None:
    """Only rank 0 iterates its loader; the ranks stay in step: they could train on afterwards."""
    told = "UserCodeError: validation_loader raised OSError: the disk is gone"
    first, *others = runs.of("broken_loader")
    assert first["error"] == told
    for other in others:
        assert other["error"] == f"FirstRankError: rank 0 raised {told}"
        assert differing(first["weights"], other["weights"]) == []


def test_no_process_outlives_a_launch(runs: Runs) -> None:
    assert processes_naming(runs.folder) == []


@pytest.mark.full
def test_three_ranks_resume_bitwise_in_buckets_that_stay(tmp_path: Path) -> None:
    """A sum of three depends on its order, and that on where DDP puts a gradient."""
    runs = Runs(tmp_path, "whole_in_fixed_buckets", "resumed_in_fixed_buckets", ranks=3)
    wholes, ends = runs.of("whole_in_fixed_buckets"), runs.of("resumed_in_fixed_buckets")
    for whole, end in zip(wholes, ends, strict=True):
        assert same(whole["states"], wholes[0]["states"]) == []
        for boundary in SAVED:
            assert same(end[boundary], whole["states"][-1]) == []


# -- one process ---------------------------------------------------------------------------------


def make_grower(model: nn.Module | None = None, **settings: Any) -> Grower:
    host = model or make_host("mlp")
    optimizer = torch.optim.Adam(host.parameters())
    return Grower(host, optimizer, loss=F.cross_entropy, state_dir=None, **settings)


def test_alone_the_model_is_trained_as_it_is() -> None:
    grower = make_grower()
    assert grower.ranks is LOCAL
    assert grower.trained_model is grower.model


def test_alone_nothing_is_copied_sent_or_changed() -> None:
    result = object()
    assert LOCAL.from_first(lambda: result, json_form(repr, repr)) is result
    gradient = torch.ones(2)
    LOCAL.average([gradient])
    LOCAL.broadcast([gradient])
    LOCAL.must_agree({"anything": "at all"}, "")
    assert gradient._version == 0


def test_without_a_process_group_there_are_no_ranks() -> None:
    with pytest.raises(RuntimeError, match="init_process_group"):
        DistributedRanks()


def test_a_process_of_several_has_to_say_whether_it_grows_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 4)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 2)
    with pytest.raises(ValueError, match=r"rank 2 of 4: pass ranks=DistributedRanks\(\)"):
        make_grower()
    assert make_grower(ranks=LOCAL).trained_model is not None


def test_a_wrapped_model_is_refused() -> None:
    class Wrapped(nn.parallel.DistributedDataParallel):
        def __init__(self, module: nn.Module) -> None:
            nn.Module.__init__(self)
            self.module = module

    with pytest.raises(TypeError, match="give the module that it wraps"):
        make_grower(Wrapped(make_host("mlp")))


def test_differences_name_what_differs_and_how_many_more() -> None:
    first = {"width": "8", "depth": "2", "seed": "7"}
    assert differences(first, first) == ""
    assert differences(first, {**first, "width": "9"}) == "width: 9 (on rank 0: 8)"
    assert differences(first, {"seed": "7", "depth": "2"}) == "width: missing (on rank 0: 8)"
    assert differences({}, {"a": "1"}) == "a: 1 (on rank 0: missing)"
    many = {str(number): "x" for number in range(5)}
    assert differences({}, many).endswith("2: x (on rank 0: missing); and 2 more")


def test_evaluations_travel_to_the_bit() -> None:
    losses = torch.tensor([0.1, float("nan"), float("inf")], dtype=torch.float64)
    hits = {"hits": torch.tensor([1.0, 0.0], dtype=torch.float64)}
    results = {
        "host": Evaluation(losses, torch.ones_like(losses), {"hits": 0.1}, hits, "sample"),
        "twin": Evaluation(losses[:1], losses[:1], {}, {}, "batch", "loss"),
    }
    received = EVALUATIONS.unpack(*EVALUATIONS.pack(results))
    assert received.keys() == results.keys()
    for name, result in results.items():
        assert received[name].losses.numpy().tobytes() == result.losses.numpy().tobytes()
        assert received[name].weights.numpy().tobytes() == result.weights.numpy().tobytes()
        assert differing(dict(received[name].values), dict(result.values)) == []
        assert received[name].metrics == result.metrics
        assert (received[name].paired_by, received[name].unit) == (result.paired_by, result.unit)
    assert EVALUATIONS.unpack(*EVALUATIONS.pack({})) == {}


def test_decisions_travel_as_they_are() -> None:
    plant = Germinate((Candidate("stem", "BP015", parameters={"width": 2}),))
    commands = (NoOp(), Cull("s1"), plant)
    for command, probability in itertools.product(commands, (None, 0.1)):
        decision = Decision(command, "because", probability, ({"score": 0.5},))
        assert decision_from_json(decision.to_json()) == decision
