"""Looking things up among the fifty: by tier, stage, interface, risk and measured budgets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from esper_async.karn.errors import QuarantinedError, QueryRefusedError, UnknownBlueprintError
from esper_async.karn.record import TIERS, BlueprintRecord, Cost, Interface, Tier

QUARANTINED_IDS = frozenset(f"BP{number:03}" for number in range(43, 51))
"""Refused for every live run whatever tier a record claims: a changed catalogue opens nothing."""
CONSERVATIVE_IDS = tuple(f"BP{number:03}" for number in range(1, 11))


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is asked of the catalogue; a limit left None does not bind.

    A budget needs a cost: a blueprint whose cost at the interface nobody measured does not meet
    one. The latency is that of a training pass, as a certificate measured it. `drill` is set by a
    drill run's own process, never taken from a request.
    """

    tiers: tuple[Tier, ...] = ("production",)
    interface: Interface | None = None
    lowest_stage: int = 0
    highest_stage: int | None = None
    risk_ceiling: float | None = None
    parameter_budget: int | None = None
    flop_budget: int | None = None
    latency_budget_ms: float | None = None
    drill: bool = False

    @property
    def has_budget(self) -> bool:
        """Whether costs are asked about."""
        budgets = (self.parameter_budget, self.flop_budget, self.latency_budget_ms)
        return any(budget is not None for budget in budgets)

    def __post_init__(self) -> None:
        for tier in self.tiers:
            if tier not in TIERS:
                raise QueryRefusedError(f"unknown tier {tier!r}: there are {', '.join(TIERS)}")
        for name in ("highest_stage", "parameter_budget", "flop_budget"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise QueryRefusedError(f"{name} = {value}: it cannot be negative")
        # Written so that NaN is refused too.
        if self.latency_budget_ms is not None and not self.latency_budget_ms >= 0.0:
            raise QueryRefusedError(
                f"latency_budget_ms = {self.latency_budget_ms}: it cannot be negative"
            )
        if self.risk_ceiling is not None and not 0.0 <= self.risk_ceiling <= 1.0:
            raise QueryRefusedError(f"risk_ceiling = {self.risk_ceiling}: expected 0 to 1")


class Catalogue:
    """The blueprints by id, and the answer to queries. Immutable; any thread may read it.

    `records` are the generated fifty unless others are given.

    Raises:
        ValueError: two records share an id or a name.
    """

    def __init__(self, records: Iterable[BlueprintRecord] | None = None) -> None:
        self._records: dict[str, BlueprintRecord] = {}
        names: set[str] = set()
        listed = _generated() if records is None else records
        for record in sorted(listed, key=lambda record: record.id):
            if record.id in self._records or record.name in names:
                raise ValueError(f"{record.id} {record.name} stands in the catalogue twice")
            self._records[record.id] = record
            names.add(record.name)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def records(self) -> tuple[BlueprintRecord, ...]:
        """Every record, quarantined ones included, in order of id: to show, not to plant."""
        return tuple(self._records.values())

    def find(self, blueprint_id: str) -> BlueprintRecord | None:
        """Return a record to read its grades; None if there is none."""
        return self._records.get(blueprint_id)

    def describe(self, blueprint_id: str) -> BlueprintRecord:
        """Return a record to show it.

        Raises:
            UnknownBlueprintError: there is none; the nearest id is named.
        """
        record = self._records.get(blueprint_id)
        if record is None:
            near = get_close_matches(blueprint_id, self._records, n=1, cutoff=0.0)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise UnknownBlueprintError(f"there is no blueprint {blueprint_id!r}{hint}")
        return record

    def get(self, blueprint_id: str, *, drill: bool = False) -> BlueprintRecord:
        """Return a record to plant it.

        Raises:
            UnknownBlueprintError: there is none.
            QuarantinedError: it is adversarial and this is no drill.
        """
        record = self.describe(blueprint_id)
        if _quarantined(record) and not drill:
            raise QuarantinedError(
                f"{record.id} {record.name} is adversarial: refused for every live run"
            )
        return record

    def query(
        self, query: Query, *, costs: Mapping[str, Cost] | None = None
    ) -> tuple[BlueprintRecord, ...]:
        """Return the blueprints that meet a query, in order of id.

        `costs`: by blueprint id, what certificates measured at the query's interface; they go
        before the catalogue's own reference costs. Without `drill` no adversarial blueprint is
        returned, whatever the tiers and risk ceiling say.
        """
        known = costs or {}
        return tuple(
            record
            for record in self._records.values()
            if _meets(record, query) and _affords(record, query, known.get(record.id))
        )

    def conservative(self, query: Query) -> tuple[BlueprintRecord, ...]:
        """Return the simplest blueprints (BP001 to BP010) that fit the query's interface.

        Every other limit of the query still binds, budgets apart; the identity fits everywhere
        and costs nothing, so the answer is empty only where the query shuts it out.
        """
        return tuple(
            record
            for record in self._records.values()
            if record.id in CONSERVATIVE_IDS and _meets(record, query)
        )


def _generated() -> Iterable[BlueprintRecord]:
    # Imported only now, so that the generator can mend a module that no longer imports.
    from esper_async.karn.generated import RECORDS

    return RECORDS


def _quarantined(record: BlueprintRecord) -> bool:
    return record.tier == "adversarial" or record.id in QUARANTINED_IDS


def _meets(record: BlueprintRecord, query: Query) -> bool:
    if _quarantined(record) and not query.drill:
        return False
    return (
        record.tier in query.tiers
        and record.stage >= query.lowest_stage
        and (query.highest_stage is None or record.stage <= query.highest_stage)
        and (query.risk_ceiling is None or record.risk <= query.risk_ceiling)
        and (query.interface is None or record.fits(query.interface))
    )


def _affords(record: BlueprintRecord, query: Query, measured: Cost | None) -> bool:
    cost = measured
    if cost is None and query.interface is not None:
        cost = record.cost_at(query.interface)
    return (
        _within(query.parameter_budget, cost.parameters if cost else None)
        and _within(query.flop_budget, cost.forward_flops if cost else None)
        and _within(query.latency_budget_ms, cost.training_ms if cost else None)
    )


def _within(budget: float | None, cost: float | None) -> bool:
    return budget is None or (cost is not None and cost <= budget)
