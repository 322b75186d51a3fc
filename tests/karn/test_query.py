"""Queries keep every limit they are given, and the quarantine whatever they are given."""

from statistics import median
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_async.karn.catalogue import CONSERVATIVE_IDS, Catalogue, Query
from esper_async.karn.errors import QuarantinedError, QueryRefusedError
from esper_async.karn.record import TIERS, Cost, Interface

CATALOGUE = Catalogue()
IDS = [record.id for record in CATALOGUE.records]
ADVERSARIAL = [record.id for record in CATALOGUE.records if record.tier == "adversarial"]

sizes = st.integers(1, 80)
interfaces = st.one_of(
    st.builds(Interface, st.just("spatial"), st.tuples(sizes, sizes, sizes)),
    st.builds(Interface, st.just("sequence"), st.tuples(sizes, sizes)),
    st.builds(Interface, st.just("feature"), st.tuples(sizes)),
    st.sampled_from([at for record in CATALOGUE.records for at, _ in record.costs]),
)
budgets = st.none() | st.integers(0, 50_000)
queries = st.builds(
    Query,
    tiers=st.lists(st.sampled_from(TIERS), unique=True).map(tuple),
    interface=st.none() | interfaces,
    lowest_stage=st.integers(0, 7),
    highest_stage=st.none() | st.integers(0, 7),
    risk_ceiling=st.none() | st.floats(0, 1),
    parameter_budget=budgets,
    flop_budget=budgets,
    latency_budget_ms=st.none() | st.floats(0, 10),
)
costs = st.dictionaries(
    st.sampled_from(IDS),
    st.builds(Cost, st.integers(0, 90_000), st.integers(0, 90_000), st.none() | st.floats(0, 10)),
)


@given(queries, costs)
def test_an_answer_holds_exactly_what_meets_every_limit(
    query: Query, known: dict[str, Cost]
) -> None:
    answer = set(CATALOGUE.query(query, costs=known))
    for record in CATALOGUE.records:
        cost = known.get(record.id)
        if cost is None and query.interface is not None:
            cost = record.cost_at(query.interface)
        meets = [
            record.tier in query.tiers,
            record.tier != "adversarial",
            query.lowest_stage <= record.stage,
            query.highest_stage is None or record.stage <= query.highest_stage,
            query.risk_ceiling is None or record.risk <= query.risk_ceiling,
            query.interface is None or record.fits(query.interface),
            query.parameter_budget is None
            or (cost is not None and cost.parameters <= query.parameter_budget),
            query.flop_budget is None
            or (cost is not None and cost.forward_flops <= query.flop_budget),
            query.latency_budget_ms is None
            or (
                cost is not None
                and cost.training_ms is not None
                and cost.training_ms <= query.latency_budget_ms
            ),
        ]
        assert (record in answer) == all(meets), record.id


@given(queries, costs)
def test_no_live_query_ever_returns_an_adversarial_blueprint(
    query: Query, known: dict[str, Cost]
) -> None:
    answers = (*CATALOGUE.query(query, costs=known), *CATALOGUE.conservative(query))
    assert not {record.id for record in answers} & set(ADVERSARIAL)


@given(interfaces)
def test_the_conservative_answer_is_simple_and_never_empty(interface: Interface) -> None:
    answer = CATALOGUE.conservative(Query(interface=interface, parameter_budget=0))
    assert answer[0].id == "BP001"
    assert {record.id for record in answer} <= set(CONSERVATIVE_IDS)
    assert all(record.fits(interface) for record in answer)


@pytest.mark.parametrize("blueprint_id", ADVERSARIAL)
def test_an_adversarial_blueprint_can_be_shown_but_not_planted(blueprint_id: str) -> None:
    assert CATALOGUE.describe(blueprint_id).tier == "adversarial"
    with pytest.raises(QuarantinedError, match="refused for every live run"):
        CATALOGUE.get(blueprint_id)
    assert CATALOGUE.get(blueprint_id, drill=True).id == blueprint_id


def test_a_drill_may_ask_for_the_adversarial_tier() -> None:
    answer = CATALOGUE.query(Query(tiers=("adversarial",), drill=True))
    assert [record.id for record in answer] == ADVERSARIAL
    assert len(ADVERSARIAL) == 8


def test_a_drill_still_has_to_ask_for_it() -> None:
    assert all(r.tier == "production" for r in CATALOGUE.query(Query(drill=True)))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"tiers": ("anything",)}, "unknown tier 'anything': there are production"),
        ({"risk_ceiling": 1.5}, r"risk_ceiling = 1.5: expected 0 to 1"),
        ({"risk_ceiling": float("nan")}, "risk_ceiling = nan"),
        ({"parameter_budget": -1}, "parameter_budget = -1: it cannot be negative"),
        ({"latency_budget_ms": float("nan")}, "latency_budget_ms = nan: it cannot be negative"),
    ],
)
def test_a_query_that_cannot_be_is_refused(limits: dict[str, object], words: str) -> None:
    with pytest.raises(QueryRefusedError, match=words):
        Query(**limits)  # type: ignore[arg-type]


def test_a_query_is_answered_in_well_under_a_millisecond_each() -> None:
    query = Query(interface=Interface("spatial", (8, 1, 40)), parameter_budget=5000)
    times = []
    for _ in range(200):
        began = perf_counter()
        assert CATALOGUE.query(query)
        times.append(perf_counter() - began)
    assert median(times) < 1e-3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("spatial:8x1x40", Interface("spatial", (8, 1, 40))),
        ("sequence:32x64", Interface("sequence", (32, 64))),
        ("feature:64", Interface("feature", (64,))),
    ],
)
def test_an_interface_is_read_from_text(text: str, expected: Interface) -> None:
    assert Interface.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spatial",
        "spatial:8x1",
        "feature:0",
        "feature:-3",
        "feature:3x",
        "round:3",
        "a:b:c",
        "feature:" + "9" * 5000,
    ],
)
def test_what_is_no_interface_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(QueryRefusedError, match="expected spatial:CxHxW, sequence:TxD or"):
        Interface.parse(text)


@given(st.text(max_size=12))
def test_any_text_is_an_interface_or_refused(text: str) -> None:
    try:
        interface = Interface.parse(text)
    except QueryRefusedError:
        return
    assert text == f"{interface.kind}:" + "x".join(map(str, interface.shape))
