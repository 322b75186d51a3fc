"""What of a run's journal becomes an event: a change of its policy, and why there was one."""

from typing import Any

from esper_async.nissa.run_events import events_of
from esper_async.runtime.journal import read_journal
from esper_async.tamiyo.picture import RunPicture
from tests.nissa.story import FIXTURE

PLACE = {"time": 1.0, "run": "r1", "boundary": 6, "epoch": 6, "step": 24}


def told(*records: dict[str, Any]) -> list[tuple[str, str, str]]:
    picture = RunPicture("r1")
    started = {"kind": "run_started", "name": "r1", "policy": "awr", "epochs": 9}
    for seq, record in enumerate([started, *records], start=1):
        picture.fold({**PLACE, "seq": seq, **record})
    events = events_of("r1", picture.view(), {})
    return [(each.name, each.level, each.message) for each in events if "policy" in each.name]


def test_a_policy_that_does_worse_and_the_one_that_takes_over_are_events() -> None:
    watched = {"kind": "policy_watched", "version": "awr-2", "conduct": {}}
    assert told(
        {**watched, "regressions": ["too slow", "too risky"]},
        {"kind": "policy_activated", "version": "awr-1", "reason": "awr-2 is rolled back"},
    ) == [
        ("run.policy_watched", "error", "The policy awr-2 does worse: too slow; too risky"),
        ("run.policy_activated", "info", "Another policy took over: awr-2 is rolled back"),
    ]
    assert told({**watched, "regressions": []}) == []


def test_a_seed_and_a_report_are_told_with_their_blueprints_name_where_it_is_known() -> None:
    picture = RunPicture("digits-7f3a")
    for record in read_journal(FIXTURE):
        picture.fold(record)
    events = list(events_of("digits-7f3a", picture.view(), {"BP016": "squeeze_excitation"}))
    messages = {(event.name, event.message.partition(":")[0]) for event in events}
    assert ("run.seed_fossilized", "s2 (BP016 squeeze excitation at features.3)") in messages
    assert ("run.field_report", "BP016 squeeze excitation at features.3") in messages
    assert ("run.seed_blending", "s6 (BP014 at head.1)") in messages
