"""What is left of a proposed command at each level of risk. Pure: command in, command out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from esper_async.karn.catalogue import Catalogue
from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.stage import ON_TRIAL, Stage
from esper_async.tamiyo.command import Command, Cull, Germinate, NoOp, Operate, PauseSeeds
from esper_async.tamiyo.risk.levels import RiskLevel
from esper_async.tamiyo.risk.signals import blueprint_risks
from esper_async.tamiyo.view import View

_SAFE_VERBS = ("STABILIZE", "EVALUATE", "CANCEL")
_PAUSABLE = (Stage.TRAINING, *ON_TRIAL)


@dataclass(frozen=True, slots=True)
class Governed:
    """The command that may be carried out, and what was done to the proposed one."""

    command: Command
    mitigations: tuple[str, ...] = ()


def govern(
    level: RiskLevel, proposed: Command, view: View, catalogue: Catalogue, *, conservative: bool
) -> Governed:
    """Return what a level leaves of a proposed command.

    CRITICAL refuses as RED does; the emergency is declared by whoever asks.
    """
    if conservative and isinstance(proposed, Germinate):
        proposed, closed = _production_only(proposed, catalogue)
        if closed:
            return _with(govern(level, proposed, view, catalogue, conservative=False), closed)
    if level is RiskLevel.GREEN:
        return Governed(proposed)
    if level is RiskLevel.YELLOW:
        return _gently(proposed, catalogue)
    if level is RiskLevel.ORANGE:
        return _safest(proposed, view, catalogue)
    return _refused(proposed, view)


def _with(governed: Governed, mitigation: str) -> Governed:
    return Governed(governed.command, (mitigation, *governed.mitigations))


def _production_only(proposed: Germinate, catalogue: Catalogue) -> tuple[Command, str]:
    """Leave experimental candidates out; the text is empty where there are none."""
    tiers = {record.id: record.tier for record in catalogue.records}
    kept = tuple(c for c in proposed.candidates if tiers.get(c.blueprint) != "experimental")
    if len(kept) == len(proposed.candidates):
        return proposed, ""
    return (Germinate(kept) if kept else NoOp()), "experimental tier closed"


def _gently(proposed: Command, catalogue: Catalogue) -> Governed:
    """Plant the safer half of the candidates, and blend them slowly at first."""
    if not isinstance(proposed, Germinate):
        return Governed(proposed)
    kept = _by_risk(proposed.candidates, catalogue)[: -(-len(proposed.candidates) // 2)]
    gentle = tuple(replace(candidate, ramp="sigmoid") for candidate in kept)
    told = [f"ramp sigmoid for {len(gentle)} candidates"]
    if len(gentle) < len(proposed.candidates):
        told.append(f"the {len(gentle)} safest of {len(proposed.candidates)} candidates")
    return Governed(Germinate(gentle), tuple(told))


def _safest(proposed: Command, view: View, catalogue: Catalogue) -> Governed:
    """Plant the one candidate of the least risk; of other operations leave what adds nothing."""
    if isinstance(proposed, Germinate):
        sizes = {(p.site, p.blueprint): p.parameters for p in view.placements}
        order = _by_risk(proposed.candidates, catalogue, sizes)
        return Governed(
            Germinate((replace(order[0], ramp="sigmoid"),)),
            (f"the safest of {len(proposed.candidates)} candidates", "ramp sigmoid"),
        )
    adds = isinstance(proposed, Operate) and proposed.verb not in _SAFE_VERBS
    if adds:
        return Governed(NoOp(), ("refused: only what is safest is done",))
    return Governed(proposed)


def _refused(proposed: Command, view: View) -> Governed:
    """Pause every seed that is not paused; a removal goes on, for it takes risk away."""
    if isinstance(proposed, Cull):
        return Governed(proposed)
    told = () if isinstance(proposed, NoOp) else ("refused",)
    running = tuple(s.id for s in view.seeds if s.stage in _PAUSABLE and not s.paused)
    if not running:
        return Governed(NoOp(), told)
    return Governed(PauseSeeds(running), (*told, f"{len(running)} seeds paused"))


def _by_risk(
    candidates: Sequence[Candidate],
    catalogue: Catalogue,
    sizes: "dict[tuple[str, str], int] | None" = None,
) -> list[Candidate]:
    """Return candidates by the risk of their blueprint, then by size; of equals the first stays."""
    risks = blueprint_risks([candidate.blueprint for candidate in candidates], catalogue)
    known = sizes or {}
    return sorted(
        candidates, key=lambda c: (risks[c.blueprint], known.get((c.site, c.blueprint), 0))
    )
