"""The shapes of the API's answers, as JSON Schema. `COMPONENTS` is what OpenAPI refers to."""

from typing import Any

from esper_async.karn.tallies import OUTCOMES

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    """A reference to a component."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema) -> Schema:
    """An array."""
    return {"type": "array", "items": items}


def maybe(kind: str) -> Schema:
    """A value that is null when it is not known or was not measured."""
    return {"type": [kind, "null"]}


def thing(properties: Schema, *, optional: tuple[str, ...] = ()) -> Schema:
    """An object whose properties are all there but the optional ones; more may come."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
ANY: Schema = {}
MAP: Schema = {"type": "object"}

_QUANTITY = {"oneOf": [{"type": "null"}, ref("Quantity")]}
_PLACE = {"seq": WHOLE, "time": NUMBER, "boundary": WHOLE, "epoch": WHOLE, "step": WHOLE}
_STATES = ["queued", "running", "paused", "completed", "failed", "stopped"]

COMPONENTS: dict[str, Schema] = {
    "Problem": thing({"type": TEXT, "title": TEXT, "status": WHOLE, "detail": TEXT}),
    "Quantity": {
        **thing({"mean": maybe("number"), "low": maybe("number"), "high": maybe("number")}),
        "description": "A paired difference of losses and its 95 % interval.",
    },
    "Seed": thing(
        {
            "id": TEXT,
            "site": TEXT,
            "stage": TEXT,
            "blueprint": maybe("string"),
            "kernel": maybe("string"),
            "alpha": maybe("number"),
            "age_epochs": maybe("integer"),
            "clean_contribution": _QUANTITY,
            "dependence": _QUANTITY,
            "benefit_vs_twin": _QUANTITY,
            "gates": array(MAP),
        }
    ),
    "Run": thing(
        {
            "id": TEXT,
            "name": TEXT,
            "state": {"type": "string", "enum": _STATES},
            "epoch": WHOLE,
            "epochs": maybe("integer"),
            "policy": maybe("string"),
            "metrics": {"type": "object", "additionalProperties": maybe("number")},
            "primary_metric": maybe("string"),
            "seeds": array(ref("Seed")),
            "boundary_ms": thing({"p50": maybe("number"), "p99": maybe("number")}),
            "overhead_ratio": maybe("number"),
            "created_at": maybe("number"),
            "error": maybe("string"),
            "progress": MAP,
        }
    ),
    "Boundary": thing({**_PLACE, "metrics": MAP, "seeds": array(MAP)}),
    "Decision": thing({**_PLACE, "command": MAP, "reason": TEXT}),
    "Explanation": thing({**_PLACE, "command_id": TEXT, "moved": array(MAP)}),
    "FieldReport": thing({**_PLACE, "report_id": TEXT, "outcome": TEXT}),
    "Picture": thing(
        {
            "run": MAP,
            "seq": WHOLE,
            "after_seq": WHOLE,
            "start": MAP,
            "end": maybe("object"),
            "rows": array(ref("Boundary")),
            "seeds": array(ref("Seed")),
            "decisions": array(ref("Decision")),
            "explanations": array(ref("Explanation")),
            "field_reports": array(ref("FieldReport")),
            "notes": array(MAP),
            "faults": array(TEXT),
        }
    ),
    "Alert": thing(
        {
            "id": TEXT,
            "name": TEXT,
            "level": TEXT,
            "labels": MAP,
            "summary": TEXT,
            "state": {"type": "string", "enum": ["firing", "acknowledged", "resolved"]},
            "started_at": NUMBER,
            "ended_at": maybe("number"),
            "acknowledged_at": maybe("number"),
            "acknowledged_by": maybe("string"),
            "silenced_until": maybe("number"),
            "routes": array(TEXT),
        }
    ),
    "Budget": thing(
        {
            "name": TEXT,
            "service": TEXT,
            "kind": {"type": "string", "enum": ["availability", "latency", "errors"]},
            "text": TEXT,
            "target": NUMBER,
            "window_days": WHOLE,
            "events": NUMBER,
            "good_ratio": maybe("number"),
            "budget_left": maybe("number"),
            "burn": {"type": "object", "additionalProperties": maybe("number")},
            "spent_24h": maybe("number"),
        }
    ),
    "Notification": thing(
        {
            "id": WHOLE,
            "channel": TEXT,
            "state": {"type": "string", "enum": ["waiting", "sent", "dead"]},
            "alerts": array(MAP),
            "made_at": NUMBER,
            "due_at": NUMBER,
            "attempts": WHOLE,
            "ended_at": maybe("number"),
            "reason": maybe("string"),
        }
    ),
    "MetricHistory": thing(
        {
            "name": TEXT,
            "kind": {"type": "string", "enum": ["counter", "gauge"]},
            "step_s": WHOLE,
            "source": {"type": "string", "enum": ["sqlite", "prometheus"]},
            "series": array(thing({"labels": MAP, "points": array(ref("MetricPoint"))})),
        }
    ),
    "MetricPoint": thing(
        {
            "time": NUMBER,
            "value": maybe("number"),
            "low": maybe("number"),
            "high": maybe("number"),
        }
    ),
    "Event": thing(
        {
            "id": WHOLE,
            "time": NUMBER,
            "level": TEXT,
            "source": TEXT,
            "name": TEXT,
            "run": maybe("string"),
            "message": TEXT,
            "fields": MAP,
        }
    ),
    "DeadLetter": thing(
        {
            "id": TEXT,
            "topic": TEXT,
            "group": TEXT,
            "reason": TEXT,
            "attempts": WHOLE,
            "died_at": NUMBER,
            "size_bytes": WHOLE,
        }
    ),
    "Blueprint": thing(
        {
            "id": TEXT,
            "name": TEXT,
            "tier": TEXT,
            "stage": WHOLE,
            "risk": NUMBER,
            "outcomes": {
                "oneOf": [{"type": "null"}, thing(dict.fromkeys(OUTCOMES, WHOLE))],
                "description": "Field reports on it so far, by outcome; null if not known now.",
            },
        }
    ),
    "Kernel": thing({"id": TEXT, "kind": TEXT, "blueprint": TEXT, "lifecycle": TEXT}),
    "Status": thing(
        {
            "status": TEXT,
            "services": MAP,
            "breakers": MAP,
            "queue_lag": MAP,
            "conservative_modes": array(TEXT),
            "alerts": array(ref("Alert")),
            "versions": MAP,
            "uptime_s": NUMBER,
            "time": NUMBER,
        }
    ),
    "Summary": thing(
        {
            "throughput_samples_per_s": maybe("number"),
            "boundary_ms": thing({"p50": maybe("number"), "p99": maybe("number")}),
            "error_budgets": {"oneOf": [{"type": "null"}, array(ref("Budget"))]},
            "top_alerts": array(ref("Alert")),
        }
    ),
}
