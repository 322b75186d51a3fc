"""The tree starts in order, restarts alone, stops in reverse, and says who would not."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from esper_async.runtime.clock import FakeClock, SystemClock
from esper_async.runtime.restart import RestartPolicy
from esper_async.supervisor.app import limits_of, unstopped
from esper_async.supervisor.declared import SERVICES, Declaration
from esper_async.supervisor.errors import EssentialServiceFailedError, StartError, UnstableError
from esper_async.supervisor.settings import ServicesSettings, Settings
from esper_async.supervisor.tree import ServiceLimits, StopReport, Tree
from tests.supervisor.puppets import Deaf, Puppet


class NoWait(random.Random):
    def uniform(self, a: float, _b: float) -> float:
        return a


def tree_of(*services: Puppet, limit: int = 3) -> Tree:
    return grown(services, limit=ServiceLimits(RestartPolicy(limit=limit)))


def grown(services: Sequence[Puppet], **options: Any) -> Tree:
    declared = [service.declared for service in services]
    return Tree(services, declared, **{"clock": FakeClock(), "source": NoWait(), **options})


def family(diary: list[str]) -> tuple[Puppet, Puppet, Puppet]:
    """Two that need a third: c needs b, b needs a; given here in the wrong order."""
    return (
        Puppet("c", ("b",), diary=diary),
        Puppet("b", ("a",), diary=diary),
        Puppet("a", essential=True, diary=diary),
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


@asynccontextmanager
async def running(tree: Tree) -> AsyncIterator["asyncio.Task[StopReport]"]:
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(tree.run(5.0))
        await until(lambda: tree.started)
        yield task
        tree.stop()


async def test_services_start_in_the_order_of_their_needs_and_stop_in_reverse() -> None:
    diary: list[str] = []
    tree = tree_of(*family(diary))
    async with running(tree) as task:
        assert tree.status == "ready"
    assert diary == ["+a", "+b", "+c", "-c", "-b", "-a"]
    assert task.result() == StopReport((), ())
    assert task.result().clean


async def test_a_failure_restarts_the_service_and_those_that_need_it_only() -> None:
    diary: list[str] = []
    c, b, a = family(diary)
    tree = tree_of(c, b, a)
    async with running(tree):
        b.ends.put_nowait(RuntimeError("boom"))
        await until(lambda: c.lives == 2 and tree.status == "ready")
        assert (a.lives, b.lives, c.lives) == (1, 2, 2)
        assert tree.snapshot()["b"]["restarts"] == 1
        assert tree.snapshot()["b"]["error"] == "RuntimeError: boom"
        assert tree.snapshot()["c"]["restarts"] == 0


async def test_what_only_follows_a_service_starts_after_it_and_outlives_its_failures() -> None:
    diary: list[str] = []
    bus = Puppet("bus", essential=True, diary=diary)
    trainer = Puppet("trainer", diary=diary, after=("bus",))
    tree = tree_of(trainer, bus)
    async with running(tree):
        bus.ends.put_nowait(RuntimeError("boom"))
        await until(lambda: bus.lives == 2 and tree.status == "ready")
        assert trainer.lives == 1
        trainer.ends.put_nowait(RuntimeError("its own"))
        await until(lambda: trainer.lives == 2 and tree.status == "ready")
    assert diary[:2] == ["+bus", "+trainer"]
    assert diary[-2:] == ["-trainer", "-bus"]


async def test_a_service_has_limits_of_its_own() -> None:
    a, b = Puppet("a"), Puppet("b")
    tree = grown(
        [a, b],
        limits={"a": ServiceLimits(RestartPolicy(limit=0))},
    )
    async with running(tree):
        assert tree.snapshot()["a"]["restarts_left"] == 0
        for puppet in (a, b):
            puppet.ends.put_nowait(RuntimeError("boom"))
        await until(lambda: tree.cells["a"].state == "failed" and b.lives == 2)


def test_limits_of_a_service_that_there_is_not_are_refused() -> None:
    with pytest.raises(ValueError, match="no service 'oonas' to limit; there is oona"):
        grown(
            [Puppet("oona")],
            limits={"oonas": ServiceLimits()},
        )


async def test_restarts_past_the_limit_of_the_whole_tree_end_it() -> None:
    puppets = [Puppet(name) for name in "abcd"]
    tree = grown(puppets, restarts=RestartPolicy(limit=3, window_s=60))
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        verdict = group.create_task(_unstable(tree))
        await until(lambda: tree.started)
        for puppet in puppets:
            puppet.ends.put_nowait(OSError("no room"))
            await until(lambda puppet=puppet: puppet.lives == 2 or verdict.done())
    assert verdict.result().exit_code == 3
    assert "more than 3 times within 60 s" in str(verdict.result())
    assert "the last was d: no room" in str(verdict.result())


async def _unstable(tree: Tree) -> UnstableError:
    with pytest.raises(UnstableError) as caught:
        await tree.run(1.0)
    return caught.value


async def test_a_service_that_swallows_cancellation_is_named_and_stops_only_its_own() -> None:
    diary: list[str] = []
    deaf = Deaf("deaf", ("below",), diary=diary)
    below = Puppet("below", diary=diary)
    tree = grown(
        [deaf, below],
        clock=SystemClock(),
        limit=ServiceLimits(stop_timeout_s=0.02),
    )
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(tree.run(0.3))
        await until(lambda: tree.started)
        tree.stop()
        await until(lambda: tree.snapshot()["deaf"].get("overdue") is True)
        report = await task
        assert report.overdue == ("deaf",)
        assert diary == ["+below", "+deaf", "-below"]
        deaf.hears.set()


async def test_a_service_that_hears_the_second_time_ends_in_time() -> None:
    deaf = Deaf("deaf", deaf_to=1)
    tree = grown(
        [deaf],
        clock=SystemClock(),
        limit=ServiceLimits(stop_timeout_s=0.02),
    )
    async with running(tree) as task:
        pass
    assert task.result().clean


async def test_the_next_attempt_is_shown_while_a_service_backs_off() -> None:
    class Longest(random.Random):
        def uniform(self, _a: float, b: float) -> float:
            return b

    clock = FakeClock(wall=1_000.0)
    a = Puppet("a")
    limits = ServiceLimits(RestartPolicy(base_s=8.0))
    tree = grown([a], clock=clock, source=Longest(), limit=limits)
    async with running(tree):
        a.ends.put_nowait(RuntimeError("boom"))
        await until(lambda: tree.cells["a"].state == "backing_off")
        shown = tree.snapshot()["a"]
        assert (shown["next_attempt_s"], shown["next_attempt_at"]) == (8.0, 1_008.0)
        assert (shown["restarts"], shown["restarts_left"]) == (1, 2)
        assert shown["error"] == "RuntimeError: boom"


async def test_a_failure_to_start_is_reported_as_such_and_the_rest_is_stopped() -> None:
    diary: list[str] = []
    c, b, a = family(diary)
    b.fails_at_start = OSError("no room")
    with pytest.raises(StartError, match="b could not start: no room"):
        async with asyncio.timeout(5):
            await tree_of(c, b, a).run(1.0)
    assert (b.lives, diary) == (1, ["+a", "-a"])


async def test_an_essential_service_past_its_limit_ends_the_tree_with_its_reason() -> None:
    diary: list[str] = []
    c, b, a = family(diary)
    tree = tree_of(c, b, a, limit=1)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        verdict = group.create_task(_only_verdict(tree))
        await until(lambda: tree.started)
        a.ends.put_nowait(RuntimeError("one"))
        await until(lambda: a.lives == 2 and tree.status == "ready")
        a.ends.put_nowait(RuntimeError("two"))
    assert "restarted once and failed again: two" in str(verdict.result())
    assert verdict.result().exit_code == 3
    assert diary.count("+c") == diary.count("-c"), "the rest was not stopped"


async def _only_verdict(tree: Tree) -> EssentialServiceFailedError:
    with pytest.raises(EssentialServiceFailedError) as caught:
        await tree.run(1.0)
    return caught.value


async def test_another_service_past_its_limit_leaves_the_system_degraded() -> None:
    a, b = Puppet("a", essential=True), Puppet("b")
    tree = tree_of(a, b, limit=0)
    async with running(tree):
        b.ends.put_nowait(RuntimeError("boom"))
        await until(lambda: tree.snapshot()["b"]["state"] == "failed")
        assert (tree.status, tree.ready, a.lives) == ("degraded", True, 1)


async def test_readiness_turns_false_with_the_stop() -> None:
    stuck = asyncio.Event()
    a = Puppet("a", essential=True, stuck=stuck)
    tree = tree_of(a)
    async with running(tree):
        assert tree.ready
        tree.stop()
        assert not tree.ready
        assert tree.status == "stopping"
        stuck.set()


async def test_what_did_not_stop_in_time_is_named_and_not_what_waits_for_it() -> None:
    stuck = asyncio.Event()
    a = Puppet("a")
    b = Puppet("b", ("a",), stuck=stuck)
    tree = tree_of(a, b)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(tree.run(0.05))
        await until(lambda: tree.started)
        tree.stop()
        report = await task
        assert report.overdue == ("b",)
        assert not report.clean
        stuck.set()


async def test_a_second_stop_cuts_the_first_short() -> None:
    stuck = asyncio.Event()
    tree = tree_of(Puppet("a", stuck=stuck))
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(tree.run(3_600))
        await until(lambda: tree.started)
        tree.stop()
        await asyncio.sleep(0)
        tree.stop()
        assert (await task).overdue == ("a",)
        stuck.set()


def test_who_cut_the_stop_short_is_told_what_it_costs() -> None:
    assert unstopped(("tolaria", "oona"), False) == "did not stop in time: tolaria, oona"
    said = unstopped(("tolaria",), True)
    assert "cut short by a second signal" in said
    assert "since its last checkpoint" in said


async def test_a_service_that_an_essential_one_needs_is_essential_too() -> None:
    tree = tree_of(Puppet("a"), Puppet("b", ("a",), essential=True), Puppet("c"))
    assert tree.essential == {"a", "b"}


@pytest.mark.parametrize(
    ("services", "words"),
    [
        ([Puppet("a", ("b",)), Puppet("b", ("a",))], "circle"),
        ([Puppet("a", ("z",))], "'z', which is no service"),
        ([Puppet("a"), Puppet("a")], "declared under the same name"),
    ],
)
async def test_a_tree_that_cannot_be_is_refused(services: list[Puppet], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tree_of(*services)


@pytest.mark.parametrize(
    ("services", "declared", "words"),
    [
        ("ab", "a", "b must be both a service and declared"),
        ("a", "ab", "b must be both a service and declared"),
        ("aab", "ab", "two services have the same name"),
    ],
)
def test_services_and_declarations_that_do_not_match_are_refused(
    services: str, declared: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Tree(
            [Puppet(name) for name in services],
            [Declaration(name, after=()) for name in declared],
            clock=FakeClock(),
            source=NoWait(),
        )


def test_every_service_can_be_limited_and_stops_before_the_listener() -> None:
    assert [each.name for each in SERVICES] == list(ServicesSettings.model_fields)
    assert [each.name for each in SERVICES if "http" not in (*each.needs, *each.after)] == ["http"]
    assert {each.name for each in SERVICES if each.essential} == {
        "http", "oona", "tolaria", "nissa",
    }  # fmt: skip


def test_a_services_deadline_is_its_own_setting_or_what_is_declared_or_that_of_all() -> None:
    settings = Settings.model_validate(
        {"supervisor": {"services": {"oona": {"stop_timeout_s": 3}}}}
    )
    options = settings.supervisor
    declared = Declaration("oona", start_timeout_s=7.0, stop_timeout_s=8.0)
    assert (
        limits_of(options, declared).start_timeout_s,
        limits_of(options, declared).stop_timeout_s,
    ) == (7.0, 3.0)
    plain = limits_of(options, Declaration("karn"))
    assert (plain.start_timeout_s, plain.stop_timeout_s) == (60.0, 20.0)
