"""What policy updates do in a run: asked in the shadow, taking over, watched, and taken back.

The desk says what is staged and what is active. A staged policy is asked on the views of the run's
own boundaries, without effect, and the run tells what it did. Where the desk's rules say
"boundary", what has become active takes over at the next boundary; else the run keeps what it began
with. One that has taken over is watched: the one before it is asked about the same states, without
effect, and where the new one does worse it gives way, whatever the rules.

A change of policy is on disk, with the policy, before it takes effect, and a resumed run repeats
what it had: the desk, and every clock, has a say only at boundaries that are new.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from esper_async.runtime.files import write_json_atomically
from esper_async.tamiyo.command import Decision
from esper_async.tamiyo.command_legality import why_illegal
from esper_async.tamiyo.conduct import Conduct, faults, riskier, slower
from esper_async.tamiyo.controller import Answered, Controller, Failed
from esper_async.tamiyo.desk_book import DeskBook, Version
from esper_async.tamiyo.errors import PolicyFileError
from esper_async.tamiyo.policies import Policy
from esper_async.tamiyo.policies.learned import FeatureVersionError
from esper_async.tamiyo.policy_desk import ACTIVATED, SHADOWED, WATCHED
from esper_async.tamiyo.published import SHIPPED
from esper_async.tamiyo.risk.engine import RiskEngine
from esper_async.tamiyo.risk.signals import Surroundings
from esper_async.tamiyo.shadow_tally import ShadowTally
from esper_async.tamiyo.view import View
from esper_async.tolaria.chronicle import Chronicle
from esper_async.tolaria.policy_choice import (
    FEATURES,
    Chosen,
    PolicyPlaces,
    begin,
    desk_of,
    published,
    shipped,
)
from esper_async.tolaria.run_journal import RunJournal

_LOG = structlog.get_logger(__name__)
KEPT = "policies"
"""The folder, in a run's own, of what took over in it."""
SHADOW_DEADLINE_S, HANG_S = 0.06, 5.0
"""For how long a staged policy is waited for, and in a deterministic run the one before a new."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking the policy that decides.

    `cpu_ms` is what the answer took of its thread, None where it was late; `error` says why there
    was no decision.
    """

    view: View
    decision: Decision
    surroundings: Surroundings
    cpu_ms: float | None
    error: str | None


@dataclass(slots=True)
class _Shadow:
    """A staged policy that is being asked; None for one that could not even be made."""

    version: Version
    policy: Policy | None
    tally: ShadowTally = field(default_factory=ShadowTally)


@dataclass(slots=True)
class _Watch:
    """What a policy has done since it took over, and what the one before it would have."""

    former: Policy
    conduct: Conduct = field(default_factory=Conduct)
    beside: Conduct = field(default_factory=Conduct)


class PolicyUpdates:
    """The updates of one run's policy; belongs to the thread that trains.

    Args:
        name: of the run's policy, one of `FEATURES`.
        seed: the choices of every version derive from it.
        places: where desk and registry are.
        run_dir: keeps what the run began with, and what took over since.

    Attributes:
        policy: what the run begins with.

    Raises:
        PolicyFileError, FeatureVersionError: that cannot be used.
    """

    def __init__(self, name: str, seed: int, places: PolicyPlaces, run_dir: Path) -> None:
        start = begin(name, places, run_dir=run_dir)
        self.policy = start.chosen.make(seed)
        self._features = FEATURES[name]
        self._seed = seed
        self._places = places
        self._run_dir = run_dir
        self._known = {each.id: each for each in (start.former, start.chosen) if each is not None}
        self._current = start.chosen.id
        self._former = None if start.former is None else start.former.id
        self._in_force: Policy | None = None
        self._watch = None if start.former is None else _Watch(start.former.make(seed))
        self._shadow: _Shadow | None = None
        self._told: set[str] = set()
        self._given_up: set[str] = set()
        self._damaged: set[str] = set()
        self._controller = Controller()
        self._beside = Controller()
        self._desk = DeskBook()
        self._seen: tuple[int, ...] = ()

    def join(
        self, journal: RunJournal, chronicle: Chronicle, risk: RiskEngine, *, deterministic: bool
    ) -> None:
        """Belong to a run from now on; called once, before the first boundary.

        Args:
            journal: has what was done before a resume.
            chronicle: where it is told.
            risk: weighs what a policy would do; it remembers nothing of that.
            deterministic: whether no clock may reach the weights: a policy that is too slow is told
                of, and gives way in the runs to come.
        """
        self._journal = journal
        self._chronicle = chronicle
        self._risk = risk
        self._deterministic = deterministic
        told = journal.told(WATCHED)
        self._given_up |= {record["version"] for record in told if record["gives_way"]}

    def at_boundary(self, boundary: int) -> Policy | None:
        """Return what decides from this boundary on; None for what the run began with.

        Raises:
            OSError: the disk refused; the policy stays.
        """
        if self._journal.repeats(boundary):
            for record in self._journal.repeated(ACTIVATED, boundary):
                self._take_over(record["version"], watched=record["watched"])
            return self._in_force
        due = self._due()
        if due is not None:
            chosen, reason, watched = due
            self._keep(chosen)
            self._chronicle.note(
                ACTIVATED,
                version=chosen.id,
                features=self._features,
                former=self._current,
                reason=reason,
                watched=watched,
            )
            self._take_over(chosen.id, watched=watched)
        return self._in_force

    def observe(self, asked: Asked) -> None:
        """Take in what the policy did at a boundary, and ask the staged one about the same."""
        shadow = self._staged()
        if self._watch is None and shadow is None:
            return
        risk = self._risk.preview(asked.view, asked.decision.command, asked.surroundings)
        if self._watch is not None:
            _count(self._watch.conduct, asked, risk)
            self._ask_former(self._watch, asked)
            self._judge(self._watch)
        if shadow is not None:
            self._ask(shadow, asked, risk)
            self._tell(shadow, final=False)

    def hung(self, words: str) -> None:
        """Take in that the policy has not come back, and the run goes to its checkpoint."""
        if self._watch is not None:
            self._watch.conduct.failed(words)
            self._judge(self._watch)

    def finish(self) -> None:
        """Tell what a staged policy did so far: the run has no further boundary."""
        if self._shadow is not None and self._shadow.tally.new.decisions:
            self._tell(self._shadow, final=True)

    def close(self) -> None:
        """End the threads on which policies are asked that do not decide."""
        self._controller.close()
        self._beside.close()

    # -- who decides ---------------------------------------------------------------------------

    def _due(self) -> tuple[Chosen, str, bool] | None:
        """Return what has to take over at a new boundary, why, and whether it is watched."""
        desk = self._look()
        if self._current in self._given_up:
            former = self._usable(self._former or SHIPPED, desk)
            return None if former is None else (former, f"{self._current} is rolled back", False)
        active = desk.active_of(self._features)
        if desk.rules.activation != "boundary" or active in (self._current, *self._given_up):
            return None
        chosen = self._usable(active, desk)
        if chosen is None:
            return None
        return chosen, "it is active", desk.watched(active) is not None

    def _usable(self, policy_id: str, desk: DeskBook) -> Chosen | None:
        """Return a policy that can be made; None where it cannot: what decides goes on."""
        if policy_id in self._damaged:
            return None
        try:
            chosen = self._find(policy_id, desk)
            chosen.make(self._seed)
        except (PolicyFileError, FeatureVersionError) as error:
            _LOG.error("policy_passed_over", version=policy_id, reason=str(error))
            self._damaged.add(policy_id)
            return None
        return chosen

    def _find(self, policy_id: str, desk: DeskBook | None = None) -> Chosen:
        if policy_id in self._known:
            return self._known[policy_id]
        if policy_id == SHIPPED:
            return shipped(self._features)
        own = self._run_dir / KEPT / f"{policy_id}.json"
        if desk is not None and policy_id in desk.versions and not own.exists():
            return published(desk.versions[policy_id], self._places)
        return Chosen.read(own)

    def _keep(self, chosen: Chosen) -> None:
        """Put a policy into the run's folder, so that a resumed run has it."""
        if chosen.id not in self._known:
            path = self._run_dir / KEPT / f"{chosen.id}.json"
            write_json_atomically(path, chosen.to_json())

    def _take_over(self, policy_id: str, *, watched: bool) -> None:
        chosen = self._known[policy_id] = self._find(policy_id)
        self._former, self._current = self._current, policy_id
        self._in_force = chosen.make(self._seed)
        self._watch = _Watch(self._find(self._former).make(self._seed)) if watched else None
        self._chronicle.decides(self._in_force)

    # -- how it does ---------------------------------------------------------------------------

    def _ask_former(self, watch: _Watch, asked: Asked) -> None:
        """Ask what decided before about the same state; what does not come is not compared.

        A deterministic run waits, as for its own decisions: the clock may not choose what counts.
        """
        timeout_s = HANG_S if self._deterministic else SHADOW_DEADLINE_S
        answer = self._beside.ask(_Plain(watch.former), asked.view, timeout_s=timeout_s)
        if isinstance(answer, Answered):
            command = answer.decision.command
            risk = self._risk.preview(asked.view, command, asked.surroundings)
            watch.beside.add(cpu_ms=answer.cpu_ms, risk=risk)
        else:
            watch.beside.was_late()

    def _judge(self, watch: _Watch) -> None:
        """Tell what is found of the policy that is watched, as soon as something is."""
        worse = [*faults(watch.conduct), *riskier(watch.conduct, watch.beside)]
        slow = slower(watch.conduct, watch.beside)
        enough = watch.conduct.decisions >= self._look().rules.watch_boundaries
        if not (worse or slow or enough):
            return
        gives_way = bool(worse or (slow and not self._deterministic))
        self._watch = None
        self._chronicle.note(
            WATCHED,
            version=self._current,
            features=self._features,
            regressions=[*worse, *slow],
            gives_way=gives_way,
            conduct=watch.conduct.to_json(),
            beside=watch.beside.to_json(),
        )
        if gives_way:
            self._given_up.add(self._current)

    def _staged(self) -> _Shadow | None:
        """Return the policy that is to be asked in the shadow."""
        version = self._look().staged_of(self._features)
        if version is None or version.update in self._told or version.id == self._current:
            self._shadow = None
        elif self._shadow is None or self._shadow.version.update != version.update:
            self._shadow = _Shadow(version, None)
        if self._shadow is not None and self._shadow.policy is None:
            self._make(self._shadow)
        return self._shadow

    def _make(self, shadow: _Shadow) -> None:
        """Make a staged policy; what cannot be made has failed."""
        try:
            shadow.policy = published(shadow.version, self._places).make(self._seed)
        except (PolicyFileError, FeatureVersionError) as error:
            shadow.tally.new.failed(str(error))

    def _ask(self, shadow: _Shadow, asked: Asked, risk: tuple[float, Any]) -> None:
        tally, view = shadow.tally, asked.view
        if shadow.policy is None:
            return
        _count(tally.active, asked, risk)
        answer = self._controller.ask(_Plain(shadow.policy), view, timeout_s=SHADOW_DEADLINE_S)
        if isinstance(answer, Answered):
            command = answer.decision.command
            tally.agreed += command == asked.decision.command
            tally.new.add(
                cpu_ms=answer.cpu_ms,
                risk=self._risk.preview(view, command, asked.surroundings),
                illegal=why_illegal(command, view),
            )
        elif isinstance(answer, Failed):
            tally.new.failed(answer.error)
        elif answer.busy_s > 2 * SHADOW_DEADLINE_S:
            tally.new.failed(f"it has not answered for {answer.busy_s:.1f} s")
        else:
            tally.new.was_late()

    def _tell(self, shadow: _Shadow, *, final: bool) -> None:
        """Tell what a staged policy did, once it can be judged."""
        earlier = shadow.version.shadow
        counted = 0 if earlier is None else int(earlier["new"]["decisions"])
        wanted = self._look().rules.shadow_states - counted
        if not final and not shadow.tally.settled(wanted):
            return
        self._told.add(shadow.version.update)
        self._shadow = None
        self._chronicle.note(
            SHADOWED,
            version=shadow.version.id,
            features=self._features,
            update=shadow.version.update,
            tally=shadow.tally.to_json(),
        )

    def _look(self) -> DeskBook:
        """Return what the desk says now; it is read again where it was changed."""
        try:
            status = self._places.desk.stat()
        except OSError:
            return self._desk
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._desk, self._seen = desk_of(self._places), seen
        return self._desk

    # -- saved and restored --------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from."""
        shadow, watch = self._shadow, self._watch
        return {
            "current": self._current,
            "former": self._former,
            "policy": None if self._in_force is None else self._in_force.state_dict(),
            "watch": None
            if watch is None
            else {
                "former": watch.former.state_dict(),
                "conduct": watch.conduct.to_json(),
                "beside": watch.beside.to_json(),
            },
            "shadow": None
            if shadow is None
            else {"update": shadow.version.update, "tally": shadow.tally.to_json()},
            "told": sorted(self._told),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; what has given way stays so.

        Raises:
            PolicyFileError, FeatureVersionError: what decided then cannot be used.
        """
        self._current, self._former = state["current"], state["former"]
        self._told = set(state["told"])
        self._in_force = None
        if state["policy"] is not None:
            self._in_force = self._find(self._current).make(self._seed)
            self._in_force.load_state_dict(state["policy"])
        self._chronicle.decides(self._in_force or self.policy)
        watch, shadow = state["watch"], state["shadow"]
        self._watch = None
        if watch is not None:
            former = self._find(self._former or SHIPPED).make(self._seed)
            former.load_state_dict(watch["former"])
            counts = [Conduct.from_json(watch[name]) for name in ("conduct", "beside")]
            self._watch = _Watch(former, *counts)
        self._shadow = None
        version = self._look().staged_of(self._features)
        if shadow is not None and version is not None and version.update == shadow["update"]:
            self._shadow = _Shadow(version, None, ShadowTally.from_json(shadow["tally"]))


class _Plain:
    """Asks a policy for its decision alone: nobody wants a staged one's explanations."""

    name = "staged"
    version = "1"

    def __init__(self, policy: Policy) -> None:
        self.decide = policy.decide
        self.state_dict = policy.state_dict
        self.load_state_dict = policy.load_state_dict


def _count(conduct: Conduct, asked: Asked, risk: tuple[float, Any]) -> None:
    """Count what the policy that decides did."""
    if asked.error is not None:
        conduct.failed(asked.error)
        return
    if asked.cpu_ms is None:
        conduct.was_late()
        return
    illegal = why_illegal(asked.decision.command, asked.view)
    conduct.add(cpu_ms=asked.cpu_ms, risk=risk, illegal=illegal)
