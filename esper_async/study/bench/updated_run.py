"""A run that policy updates reach, boundary by boundary, without a network to train.

Registry, desk, journal and the run's side of updates are the real ones; what a policy sees is a
drawn state, and what it decides is not carried out. Every part can be thrown away at any write and
made again from what is on disk, as after a death.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from esper_async.karn.catalogue import Catalogue
from esper_async.leyline import PolicyUpdate
from esper_async.leyline.signing import Signer
from esper_async.runtime.files import write_atomically, write_json_atomically
from esper_async.runtime.journal import Journal, read_journal
from esper_async.simic.announcing import updates_of
from esper_async.simic.registry import PolicyRegistry
from esper_async.study.bench.benchmark import replaced
from esper_async.tamiyo.command import Decision
from esper_async.tamiyo.desk_book import Rules
from esper_async.tamiyo.feature_versions import PLACEMENT_VERSION
from esper_async.tamiyo.imitation.states import StateDraw
from esper_async.tamiyo.offer import PLACEMENT_WIDTH
from esper_async.tamiyo.policies import Policy
from esper_async.tamiyo.policies.from_document import policy_of
from esper_async.tamiyo.policies.learned import document_of
from esper_async.tamiyo.policies.softmax_ensemble import SoftmaxEnsemble
from esper_async.tamiyo.policy_desk import PolicyDesk
from esper_async.tamiyo.view import Placement, View
from esper_async.tolaria.chronicle import Chronicle
from esper_async.tolaria.deciding import Decider
from esper_async.tolaria.policy_choice import PolicyPlaces
from esper_async.tolaria.policy_updates import PolicyUpdates
from esper_async.tolaria.run_journal import RunJournal

KEY = bytes(range(32))
RUN = "run-1"
_CAREFUL, _DARING = 0.3, 0.7
_LINEAGE = {"data": "drawn", "reward_version": 0, "code": "bench", "command": "bench"}
_WRITERS = (
    "esper_async.tamiyo.policy_desk.write_atomically",
    "esper_async.tolaria.policy_choice.write_json_atomically",
    "esper_async.tolaria.policy_updates.write_json_atomically",
    "esper_async.runtime.journal.Journal.append",
)
Deed = Callable[[View], Decision | None]


class Died(BaseException):
    """The process is gone."""


class Installation:
    """A state directory's registry and desk, and runs of it.

    Args:
        folder: of the state directory.
        rules: how policies take over.
    """

    def __init__(self, folder: Path, rules: Rules) -> None:
        self.folder = folder
        self.rules = rules
        self.places = PolicyPlaces(folder / "desk.json", folder / "registry", Signer(KEY))
        ticks = itertools.count(1.0)
        self.registry = PolicyRegistry(
            self.places.registry, self.places.signer, now=lambda: next(ticks)
        )
        self.desk = self.opened()

    def opened(self) -> PolicyDesk:
        """Return the desk as a supervisor finds it at its start."""
        places = self.places
        desk = PolicyDesk(places.desk, places.registry, places.signer, rules=self.rules)
        desk.open()
        return desk

    def publish(self, number: float, **further: Any) -> str:
        """Publish a policy; return its id."""
        weights = np.full((2, PLACEMENT_WIDTH), number)
        learned = SoftmaxEnsemble(weights, np.zeros(PLACEMENT_WIDTH))
        document = {**document_of(learned, lineage=_LINEAGE), **further}
        active = self.registry.book().active_of(str(document["features"]))
        record = {"active": active, "passes": True, "reasons": [], "number": number}
        return self.registry.submit(document, record).id

    def update(self) -> PolicyUpdate:
        """Return what Simic tells of the registry now."""
        updates = updates_of(self.registry.book())
        (found,) = [each for each in updates if each.schema_digest == PLACEMENT_VERSION]
        return found

    @property
    def active(self) -> str:
        """What decides in runs that begin now."""
        return self.desk.book.active_of(PLACEMENT_VERSION)

    def fold(self, run: str = RUN) -> None:
        """Let the desk take in what a run has told, and the registry what the desk rejects."""
        for record in read_journal(self.folder / run / "journal.jsonl"):
            if record["kind"].startswith("policy_"):
                self.desk.fold(run, record)
        for version in self.desk.to_withdraw():
            self.registry.withdraw(version.id, version.features, reason=version.reason)
            self.desk.withdrawn(version.id)

    def told(self, kind: str, run: str = RUN) -> list[dict[str, Any]]:
        """Return the records of a kind that a run has written."""
        records = read_journal(self.folder / run / "journal.jsonl")
        return [record for record in records if record["kind"] == kind]


class UpdatedRun:
    """One life of a run under `learned`; the next one begins where the journal ends.

    Args:
        here: the installation.
        name: of the run's folder.
        deterministic: whether no clock may reach what it does.
    """

    def __init__(self, here: Installation, name: str = RUN, *, deterministic: bool = True) -> None:
        folder = here.folder / name
        folder.mkdir(exist_ok=True)
        self._view = drawn_view()
        self._boundary = 0
        self._journal = RunJournal(name, folder / "journal.jsonl")
        self._chronicle = Chronicle(self._journal, self._position)
        self._begun = PolicyUpdates("learned", 0, here.places, folder)
        self._chronicle.name(name, self._begun.policy)
        self._decider = Decider(
            self._journal,
            self._chronicle,
            command_id=lambda: f"c{self._boundary}",
            deterministic=deterministic,
            deadline_s=1.0,
            updates=self._begun,
        )
        self._journal.resume(0)

    def pass_boundary(self) -> None:
        """Decide at the next boundary."""
        self._boundary += 1
        view = replace(self._view, boundary=self._boundary)
        self._decider.decide(self._begun.policy, view)

    def close(self) -> None:
        """End its threads, and close its journal."""
        self._decider.close()
        self._journal.close()

    def _position(self) -> Mapping[str, Any]:
        return {"boundary": self._boundary, "step": self._boundary, "epoch": self._boundary}


def drawn_view() -> View:
    """Return a state in which much may be planted that is harmless, and something that is not."""
    catalogue = Catalogue()
    view = StateDraw(3).view(sites=(4, 4), situation="free")
    harmless = [p for p in view.placements if _risk(p, catalogue) <= _CAREFUL][:9]
    daring = next(each for each in catalogue.records if _CAREFUL < _DARING <= each.risk < 0.85)
    risky = replace(harmless[0], blueprint=daring.id)
    return replace(view, last_boundary=None, placements=[*harmless, risky], free_candidates=8)


def riskiest(view: View) -> Placement:
    """Return the placement of the highest grade."""
    catalogue = Catalogue()
    return max(view.placements, key=lambda placement: _risk(placement, catalogue))


def _risk(placement: Placement, catalogue: Catalogue) -> float:
    record = catalogue.find(placement.blueprint)
    return 1.0 if record is None else record.risk


class _Misbehaving:
    """Decides as another policy does, but for a deed."""

    def __init__(self, inner: Policy, deed: Deed) -> None:
        self._inner, self._deed = inner, deed
        self.name, self.version = inner.name, inner.version
        self.state_dict, self.load_state_dict = inner.state_dict, inner.load_state_dict

    def decide(self, view: View) -> Decision:
        """Do the deed; decide if there is none to do."""
        return self._deed(view) or self._inner.decide(view)


@contextmanager
def misbehaving(number: float, deed: Deed) -> Iterator[None]:
    """Let the policy that was published under a number do something else, for a block."""

    def make(document: Mapping[str, Any], seed: int) -> Policy:
        policy = policy_of(document, seed)
        weights = document.get("weights", [[None]])  # those of the shipped one have another name
        return _Misbehaving(policy, deed) if weights[0][0] == number else policy

    with replaced("esper_async.tolaria.policy_choice.policy_of", make):
        yield


@contextmanager
def dying(at: int, *, before: bool) -> Iterator[Callable[[], int]]:
    """Let the process die at a durable write, before or after it; yield the number of writes."""
    written = 0

    def counted(write: Callable[..., Any]) -> Callable[..., Any]:
        def perform(*given: Any, **named: Any) -> Any:
            nonlocal written
            written += 1
            if written == at and before:
                raise Died
            done = write(*given, **named)
            if written == at:
                raise Died
            return done

        return perform

    writes: tuple[Callable[..., Any], ...] = (
        write_atomically,
        write_json_atomically,
        write_json_atomically,
        Journal.append,
    )
    with ExitStack() as stack:
        for target, write in zip(_WRITERS, writes, strict=True):
            stack.enter_context(replaced(target, counted(write)))
        yield lambda: written


def damage(path: Path) -> None:
    """Cut the last byte off a file."""
    path.write_bytes(path.read_bytes()[:-1])


def sign_with_another_key(registry: Path) -> None:
    """Put another signature on a registry's book."""
    path = registry / "registry.json"
    book = json.loads(path.read_text())
    book["signature"] = Signer(bytes(32)).sign(b"").hex()
    path.write_text(json.dumps(book))
