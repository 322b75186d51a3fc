"""Does what Simic publishes reach runs only if it is sound, once, and does harm not for long?

Registry, desk, journal and the run's side of updates are the real ones; states are drawn instead of
trained, and a death is an exception at a durable write, after which all is made anew from the disk.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from esper_async.leyline import PolicyUpdate
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
from esper_async.study.bench.updated_run import (
    Deed,
    Died,
    Installation,
    UpdatedRun,
    damage,
    dying,
    misbehaving,
    riskiest,
    sign_with_another_key,
)
from esper_async.tamiyo.command import Cull, Decision, Germinate
from esper_async.tamiyo.desk_book import DeskBook, Rules
from esper_async.tamiyo.feature_versions import PLACEMENT_VERSION
from esper_async.tamiyo.policy_desk import PolicyDesk, PolicyUpdateRefusedError
from esper_async.tamiyo.published import SHIPPED, content_path
from esper_async.tamiyo.shadow_tally import ShadowTally
from esper_async.tamiyo.view import View
from esper_async.tolaria.policy_updates import PolicyUpdates
from esper_async.tolaria.run_journal import RunJournal

FORGED = "updates that are not to be believed, and are staged"
SHADOW = "policies that do wrong in the shadow, and take over"
SOUND = "sound policies that take over"
HARM = "policies that do wrong once they decide, and go on"
MIDDLE = "boundaries at which an episode is decided by another policy than it began with"
DEATHS = "deaths after which an update is lost, taken twice, or half of one is left"
_STATES, _LAST = 10, 24
_EPISODE = Rules("episode", _STATES, _STATES)
_QUICK = Rules("boundary", 3, 3)
_SLOW_S = 0.05
_NUMBER = 0.5
"""Of the policy that an installation's first update is about."""


def measure(effort: Effort) -> list[Row]:
    """Try what may go wrong with an update, each in an installation of its own."""
    rows = []
    if wants(FORGED):
        rows.append(_count(FORGED, {name: _believed(lie) for name, lie in _LIES.items()}))
    if wants(SHADOW):
        rows.append(_count(SHADOW, {name: _takes_over(deed) for name, deed in _WRONGS.items()}))
    if wants(SOUND):
        sound = [_takes_over(lambda _: None, number) for number in (0.1, 0.5, 1.0)]
        rows.append(judged(SOUND, sum(sound), "of 3", Bar("at least", 3)))
    if wants(HARM):
        rows.append(_count(HARM, {name: _goes_on(deed) for name, deed in _WRONGS.items()}))
    if wants(MIDDLE):
        rows.append(judged(MIDDLE, _in_the_middle(), f"of {_LAST}", Bar("at most", 0)))
    if wants(DEATHS):
        rows.append(_deaths(effort))
    if effort is Effort.FULL:
        rows.append(_cost())
    return rows


def _count(figure: str, found: Mapping[str, bool]) -> Row:
    """Judge that nothing of what was tried came to pass; name what did."""
    wrong = [name for name, came in found.items() if came]
    note = ", ".join(wrong) or ", ".join(found)
    return judged(figure, len(wrong), f"of {len(found)}", Bar("at most", 0), note=note)


@contextmanager
def _installation(rules: Rules) -> Iterator[Installation]:
    with TemporaryDirectory(prefix="esper-bench-") as folder:
        yield Installation(Path(folder), rules)


# -- before it is staged -------------------------------------------------------------------------


def _forged(here: Installation, **fields: Any) -> PolicyUpdate:
    here.publish(_NUMBER)
    update = here.update()
    for name, value in fields.items():
        setattr(update, name, value)
    return update


def _sent_again(here: Installation) -> PolicyUpdate:
    here.publish(1.0)
    old = here.update()
    here.publish(_NUMBER)
    return old


def _damaged(here: Installation) -> PolicyUpdate:
    here.publish(_NUMBER)
    update = here.update()
    damage(content_path(here.places.registry, update.artifact_sha256.hex()))
    return update


def _another_key(here: Installation) -> PolicyUpdate:
    here.publish(_NUMBER)
    update = here.update()
    sign_with_another_key(here.places.registry)
    return update


def _no_known_kind(here: Installation) -> PolicyUpdate:
    here.publish(_NUMBER, kind="oracle")
    return here.update()


_LIES: Mapping[str, Callable[[Installation], PolicyUpdate]] = {
    "of other features": lambda here: _forged(here, schema_digest="placement-0"),
    "not in the registry": lambda here: _forged(here, policy_version="awr-0123456789ab"),
    "of another checksum": lambda here: _forged(here, artifact_sha256=bytes(32)),
    "without its record": lambda here: _forged(here, validation_id="none"),
    "sent again": _sent_again,
    "of a damaged file": _damaged,
    "of a registry signed by another key": _another_key,
    "of no known kind": _no_known_kind,
}


def _believed(lie: Callable[[Installation], PolicyUpdate]) -> bool:
    with _installation(_EPISODE) as here:
        update = lie(here)
        with suppress(PolicyUpdateRefusedError):
            here.desk.take(update)
        return bool(here.desk.book.staged)


# -- in the shadow, and afterwards ---------------------------------------------------------------


def _raises(_: View) -> Decision | None:
    raise RuntimeError("a fault of the policy")


def _culls_nobody(_: View) -> Decision | None:
    return Decision(Cull("s99"), "a seed that is not there")


def _dawdles(_: View) -> Decision | None:
    began = time.thread_time()
    while time.thread_time() < began + _SLOW_S:
        pass
    return None


def _dares(view: View) -> Decision | None:
    return Decision(Germinate((riskiest(view).candidate(),)), "the riskiest there is", 1.0)


_WRONGS: Mapping[str, Deed] = {
    "raises": _raises,
    "culls what is not there": _culls_nobody,
    "is slow": _dawdles,
    "is risky": _dares,
}


def _pass(here: Installation, count: int = _STATES + 1, name: str = "run-1") -> None:
    """Let a run pass boundaries to its end, and the desk take in what it tells."""
    run = UpdatedRun(here, name, deterministic=False)
    for _ in range(count):
        run.pass_boundary()
    run.close()
    here.fold(name)


def _takes_over(deed: Deed, number: float = _NUMBER) -> bool:
    with _installation(_EPISODE) as here, misbehaving(number, deed):
        policy_id = here.publish(number)
        here.desk.take(here.update())
        _pass(here)
        return here.active == policy_id


def _goes_on(deed: Deed) -> bool:
    """Whether a policy that is sound in the shadow and not afterwards decides to the end."""
    with _installation(_EPISODE) as here:
        policy_id = here.publish(_NUMBER)
        here.desk.take(here.update())
        _pass(here)
        took_over = here.active == policy_id
        with misbehaving(_NUMBER, deed):
            _pass(here, name="run-2")
        last = here.told("decision", "run-2")[-1]
        left = last["policy_version"] != here.told("decision", "run-2")[0]["policy_version"]
        registry = here.registry.book().active_of(PLACEMENT_VERSION)
        back = here.active == registry == SHIPPED
        return not (took_over and left and back)


# -- when it takes over --------------------------------------------------------------------------


def _in_the_middle() -> int:
    """Count a run's decisions by another policy than the first, while an update takes over."""
    with _installation(_EPISODE) as here:
        here.publish(_NUMBER)
        here.desk.take(here.update())
        run = UpdatedRun(here)
        for _ in range(_LAST):
            run.pass_boundary()
            here.fold()
        run.close()
        if here.active == SHIPPED:
            return _LAST  # nothing took over, so that nothing was measured
        versions = [each["policy_version"] for each in here.told("decision")]
        return sum(version != versions[0] for version in versions)


def _deaths(effort: Effort) -> Row:
    """Let supervisor and run die at each of their writes, before and after it."""
    whole, writes = _lives(0, before=False)
    step = 1 if effort is Effort.FULL else 3
    wrong = list(whole)
    tried = 0
    for at in range(1, writes + 1):
        for before in (False, True):
            if (at + before) % step == 0:
                tried += 1
                found, _ = _lives(at, before=before)
                side = "before" if before else "after"
                wrong += [f"{side} write {at}: {each}" for each in found]
    note = "; ".join(wrong[:3]) or f"{writes} writes, with {tried} deaths before or after them"
    return judged(DEATHS, len(wrong), f"of {tried}", Bar("at most", 0), note=note)


def _lives(at: int, *, before: bool) -> tuple[list[str], int]:
    """Take a run through an update with a death at a write; return what is wrong, and the writes.

    0 is no death.
    """
    with _installation(_QUICK) as here:
        policy_id = here.publish(_NUMBER)
        with dying(at, before=before) as written:
            while not _live(here):
                pass
            writes = written()
        return _left(here, policy_id), writes


def _live(here: Installation) -> bool:
    """Take supervisor and run through one life; return whether they came to its end."""
    run = None
    try:
        here.desk = here.opened()
        run = UpdatedRun(here)
        for _ in range(_STATES):
            here.desk.take(here.update())  # the bus delivers until it is told not to
            run.pass_boundary()
            here.fold()
    except Died:
        return False
    finally:
        if run is not None:
            run.close()
    return True


def _left(here: Installation, policy_id: str) -> list[str]:
    """Return what is wrong after a run through an update."""
    wrong = []
    if here.opened().book.active_of(PLACEMENT_VERSION) != policy_id:
        wrong.append("the update is lost")
    done = [event.what for event in here.desk.book.history if event.id == policy_id]
    for what in ("staged", "activated", "settled", "took over"):
        if done.count(what) != 1:
            wrong.append(f"{what} {done.count(what)} times")
    taken = [each["boundary"] for each in here.told("policy_activated")]
    if len(taken) != 1:
        wrong.append(f"the run took over {len(taken)} times")
        return wrong
    decided = [(each["boundary"], each["policy_version"]) for each in here.told("decision")]
    if [boundary for boundary, _ in decided] != list(range(1, _STATES + 1)):
        wrong.append("a boundary was decided twice, or not at all")
    first, last = decided[0][1], decided[-1][1]
    if any(version != (last if at >= taken[0] else first) for at, version in decided):
        wrong.append("a decision is by another policy than was in force")
    return wrong


def _cost() -> Row:
    """Measure what a staged policy adds to a boundary."""
    took = []
    for staged in (False, True):
        with _installation(Rules("episode", 1_000, _STATES)) as here:
            if staged:
                here.publish(_NUMBER)
                here.desk.take(here.update())
            run = UpdatedRun(here)
            started = time.process_time()
            for _ in range(200):
                run.pass_boundary()
            took.append(1e3 * (time.process_time() - started) / 200)
            run.close()
    note = "CPU time of a boundary's decision with one staged, less one without"
    return shown("what a staged policy adds", took[1] - took[0], "ms", note=note)


# -- mutants -------------------------------------------------------------------------------------


def _believes(self: PolicyDesk, update: PolicyUpdate) -> None:
    return


def _silent(self: Any, *given: Any, **named: Any) -> None:
    return


def _faultless(self: ShadowTally) -> list[str]:
    return []


_look = PolicyUpdates._look


def _at_boundaries(self: PolicyUpdates) -> DeskBook:
    book = _look(self)
    book.rules = Rules("boundary", book.rules.shadow_states, book.rules.watch_boundaries)
    return book


def _nothing_again(self: RunJournal, kind: str, boundary: int) -> list[dict[str, Any]]:
    return []


BENCHMARK = Benchmark(
    name="policy-updates",
    question="does what is published reach runs only if it is sound, once, and does harm end soon?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "forged updates are believed",
            "the desk does not ask the registry",
            lambda: replaced(f"{PolicyDesk.__module__}.PolicyDesk._verify", _believes),
            fails=(FORGED,),
        ),
        Mutant(
            "whatever was asked in the shadow takes over",
            "nothing that it did there counts",
            lambda: replaced(f"{ShadowTally.__module__}.ShadowTally.faults", _faultless),
            fails=(SHADOW,),
        ),
        Mutant(
            "what was asked in the shadow is not told",
            "the desk waits for ever",
            lambda: replaced(f"{PolicyUpdates.__module__}.PolicyUpdates._tell", _silent),
            fails=(SOUND,),
        ),
        Mutant(
            "never rolled back",
            "nobody judges what a policy does once it decides",
            lambda: replaced(f"{PolicyUpdates.__module__}.PolicyUpdates._judge", _silent),
            fails=(HARM,),
        ),
        Mutant(
            "takes over in the middle of an episode",
            "what is active decides from the next boundary on, whatever the rules",
            lambda: replaced(f"{PolicyUpdates.__module__}.PolicyUpdates._look", _at_boundaries),
            fails=(MIDDLE,),
        ),
        Mutant(
            "a resumed run does not repeat what took over",
            "it asks the desk again",
            lambda: replaced(f"{RunJournal.__module__}.RunJournal.repeated", _nothing_again),
            fails=(DEATHS,),
        ),
    ),
)
