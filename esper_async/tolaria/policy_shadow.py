"""A staged policy is asked in the shadow of the one that decides, before it may take over."""

from esper_async.tamiyo.controller import Answered, Failed
from esper_async.tamiyo.desk_book import Version
from esper_async.tamiyo.errors import PolicyFileError
from esper_async.tamiyo.policies import Policy
from esper_async.tamiyo.policies.learned import FeatureVersionError
from esper_async.tamiyo.risk.levels import RiskLevel
from esper_async.tamiyo.shadow_tally import ShadowTally
from esper_async.tolaria.policy_beside import DEADLINE_S, Asked, Beside
from esper_async.tolaria.policy_choice import PolicyPlaces, published


class PolicyShadow:
    """What a staged policy does at the boundaries of a run.

    Attributes:
        version: which it is, as the desk has staged it.
        tally: what it did, and what the deciding policy did there.
    """

    def __init__(self, version: Version, tally: ShadowTally | None = None) -> None:
        self.version = version
        self.tally = ShadowTally() if tally is None else tally
        self._policy: Policy | None = None

    def make(self, places: PolicyPlaces, seed: int) -> None:
        """Make the policy, once; what cannot be made has failed."""
        if self._policy is not None:
            return
        try:
            self._policy = published(self.version, places).make(seed)
        except (PolicyFileError, FeatureVersionError) as error:
            self.tally.new.failed(str(error))

    def observe(self, asked: Asked, risk: tuple[float, RiskLevel], beside: Beside) -> None:
        """Take in what was decided, and ask the staged policy about the same state."""
        if self._policy is None:
            return
        tally = self.tally
        asked.count(tally.active, risk)
        answer = beside.ask(self._policy, asked, tally.new, timeout_s=DEADLINE_S)
        if isinstance(answer, Answered):
            tally.agreed += answer.decision.command == asked.decision.command
        elif isinstance(answer, Failed):
            tally.new.failed(answer.error)
        elif answer.busy_s > 2 * DEADLINE_S:
            tally.new.failed(f"it has not answered for {answer.busy_s:.1f} s")
        else:
            tally.new.was_late()

    def settled(self, states: int) -> bool:
        """Whether it can be judged: with what other runs told, it was asked about enough states."""
        earlier = self.version.shadow
        counted = 0 if earlier is None else int(earlier["new"]["decisions"])
        return self.tally.settled(states - counted)
