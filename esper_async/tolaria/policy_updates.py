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
from pathlib import Path
from typing import Any

import structlog

from esper_async.runtime.files import write_json_atomically
from esper_async.tamiyo.desk_book import DeskBook
from esper_async.tamiyo.errors import PolicyFileError
from esper_async.tamiyo.policies import Policy
from esper_async.tamiyo.policies.learned import FeatureVersionError
from esper_async.tamiyo.policy_desk import ACTIVATED, SHADOWED, WATCHED
from esper_async.tamiyo.published import SHIPPED
from esper_async.tamiyo.risk.engine import RiskEngine
from esper_async.tamiyo.shadow_tally import ShadowTally
from esper_async.tolaria.chronicle import Chronicle
from esper_async.tolaria.policy_beside import Asked, Beside
from esper_async.tolaria.policy_choice import (
    FEATURES,
    Chosen,
    PolicyPlaces,
    begin,
    desk_of,
    published,
    shipped,
)
from esper_async.tolaria.policy_shadow import PolicyShadow
from esper_async.tolaria.policy_watch import PolicyWatch
from esper_async.tolaria.run_journal import RunJournal

_LOG = structlog.get_logger(__name__)
KEPT = "policies"
"""The folder, in a run's own, of what took over in it."""


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
        self._watch = None if start.former is None else PolicyWatch(start.former.make(seed))
        self._shadow: PolicyShadow | None = None
        self._told: set[str] = set()
        self._given_up: set[str] = set()
        self._damaged: set[str] = set()
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
        self._beside_former, self._beside_staged = Beside(risk), Beside(risk)
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
        shadow, watch = self._in_shadow(), self._watch
        if watch is None and shadow is None:
            return
        risk = self._risk.preview(asked.view, asked.decision.command, asked.surroundings)
        if watch is not None:
            watch.observe(asked, risk, self._beside_former, deterministic=self._deterministic)
            self._judge(watch)
        if shadow is not None:
            shadow.observe(asked, risk, self._beside_staged)
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
        self._beside_former.close()
        self._beside_staged.close()

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
        former = self._find(self._former).make(self._seed) if watched else None
        self._watch = None if former is None else PolicyWatch(former)
        self._chronicle.decides(self._in_force)

    # -- how it does ---------------------------------------------------------------------------

    def _judge(self, watch: PolicyWatch) -> None:
        """Tell what is found of the policy that is watched, as soon as something is."""
        boundaries = self._look().rules.watch_boundaries
        found = watch.verdict(boundaries, deterministic=self._deterministic)
        if found is None:
            return
        self._watch = None
        self._chronicle.note(
            WATCHED,
            version=self._current,
            features=self._features,
            regressions=list(found.regressions),
            gives_way=found.gives_way,
            conduct=watch.conduct.to_json(),
            beside=watch.beside.to_json(),
        )
        if found.gives_way:
            self._given_up.add(self._current)

    def _in_shadow(self) -> PolicyShadow | None:
        """Return the policy that is to be asked in the shadow."""
        version = self._look().staged_of(self._features)
        if version is None or version.update in self._told or version.id == self._current:
            self._shadow = None
        elif self._shadow is None or self._shadow.version.update != version.update:
            self._shadow = PolicyShadow(version)
        if self._shadow is not None:
            self._shadow.make(self._places, self._seed)
        return self._shadow

    def _tell(self, shadow: PolicyShadow, *, final: bool) -> None:
        """Tell what a staged policy did, once it can be judged."""
        if not final and not shadow.settled(self._look().rules.shadow_states):
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
            "watch": None if watch is None else watch.state_dict(),
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
            self._watch = PolicyWatch(self._find(self._former or SHIPPED).make(self._seed))
            self._watch.load_state_dict(watch)
        self._shadow = None
        version = self._look().staged_of(self._features)
        if shadow is not None and version is not None and version.update == shadow["update"]:
            self._shadow = PolicyShadow(version, ShadowTally.from_json(shadow["tally"]))
