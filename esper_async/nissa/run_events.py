"""What of a run's journal is worth an event: its beginnings and ends, and what changed the network.

An event's uid is the run and the record's number, so that reading a journal again adds nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from esper_async.nissa.event_store import Event

_NOTES = {
    "run_started": ("info", "The run began."),
    "paused": ("info", "The run was paused."),
    "resumed": ("info", "The run goes on."),
    "rollback": ("warning", "The run went back."),
    "command_refused": ("warning", "A command was refused:"),
    "early_stop": ("info", "Training ended early:"),
    "emergency": ("critical", "An emergency."),
    "policy_activated": ("info", "Another policy took over:"),
}
_MILD = "MINOR"
"""Level of an emergency about which nobody needs to hurry."""
_ON_TRIAL = ("BLENDING", "SHADOWING", "PROBATIONARY")
_ENDS = {"completed": "info", "stopped": "info", "failed": "error"}


def events_of(
    run_id: str, view: Mapping[str, Any], blueprints: Mapping[str, str]
) -> Iterator[Event]:
    """Yield the events in a run's view (`RunPicture.view`), in no particular order.

    `blueprints` are the catalogue's names by id.
    """
    after = view["after_seq"]
    for note in view["notes"]:
        if note["kind"] in _NOTES:
            level, text = _NOTES[note["kind"]]
            if note.get("level") == _MILD:
                level = "warning"
            yield _event(run_id, note, level, note["kind"], f"{text} {note.get('reason') or ''}")
        elif note["kind"] == "policy_watched" and note["regressions"]:
            text = f"The policy {note['version']} does worse: {'; '.join(note['regressions'])}"
            yield _event(run_id, note, "error", "policy_watched", text)
        elif note["kind"] == "run_ended":
            text = f"The run {note['state']}. {note.get('error') or ''}"
            yield _event(run_id, note, _ENDS[note["state"]], "run_ended", text)
    for decision in view["decisions"]:
        if decision["command"]["operation"] is not None:
            operation = decision["command"]["operation"].lower()
            text = f"{operation}: {decision['reason']}"
            yield _event(run_id, decision, "info", "decision", text)
    for report in view["field_reports"]:
        text = f"{_place(report, blueprints)}: {report['outcome'].lower()}"
        yield _event(run_id, report, "info", "field_report", text)
    for seed in view["seeds"]:
        for change in seed["lane"]:
            told = _told(seed, change, blueprints)
            if told is not None and change["seq"] > after:
                yield _event(run_id, change, "info", f"seed_{change['to_stage'].lower()}", told)


def _place(planted: Mapping[str, Any], blueprints: Mapping[str, str]) -> str:
    blueprint = planted.get("blueprint")
    name = blueprints.get(blueprint, "") if blueprint else "no winner"
    return " ".join(
        [*filter(None, (blueprint, name.replace("_", " "))), "at", str(planted["site"])]
    )


def _told(
    seed: Mapping[str, Any], change: Mapping[str, Any], blueprints: Mapping[str, str]
) -> str | None:
    """Say a change of stage that touched the network, or None for one that did not."""
    fell = change["to_stage"] == "CULLED" and change["from_stage"] in _ON_TRIAL
    if not fell and change["to_stage"] not in ("BLENDING", "FOSSILIZED"):
        return None
    why = f": {change['gate']['reason']}" if change["gate"] else ""
    return f"{seed['id']} ({_place(seed, blueprints)}){why}"


def _event(run_id: str, record: Mapping[str, Any], level: str, name: str, message: str) -> Event:
    place = {"boundary": record["boundary"], "epoch": record["epoch"], "step": record["step"]}
    return Event(
        uid=f"{run_id}/{record['seq']}",
        time=record["time"],
        level=level,
        source="tolaria",
        name=f"run.{name.removeprefix('run_')}",
        message=message.strip(),
        run=run_id,
        fields=place,
    )
