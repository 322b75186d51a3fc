"""Alerts in the words of each kind of channel. Pure: alerts as the API shows them, bodies out."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

Alert = Mapping[str, Any]
_PAGER_ACTIONS = {"firing": "trigger", "acknowledged": "acknowledge", "resolved": "resolve"}
_MARKS = {"firing": "\N{CROSS MARK}", "acknowledged": "\N{EYES}", "resolved": "\N{CHECK MARK}"}


def headline(alerts: Sequence[Alert]) -> str:
    """One line for a group of alerts of one name."""
    name = alerts[0]["name"]
    states = [alert["state"] for alert in alerts]
    if len(alerts) == 1:
        return f"{name} is {states[0]}: {alerts[0]['summary']}"
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{name}: {counts}"


def line(alert: Alert) -> str:
    """What there is to say of one alert."""
    where = ", ".join(f"{name}={value}" for name, value in alert["labels"].items())
    by = f" Seen by {alert['acknowledged_by']}." if alert["acknowledged_by"] else ""
    return f"[{alert['level']}] {alert['summary']}{by}{f' ({where})' if where else ''}"


def webhook_body(alerts: Sequence[Alert], page_url: str) -> dict[str, Any]:
    """The body that Alertmanager's webhook receivers take, its version 4."""
    told = [_alertmanager(alert, page_url) for alert in alerts]
    firing = any(each["status"] == "firing" for each in told)
    return {
        "version": "4",
        "groupKey": f"{{}}:{{alertname={alerts[0]['name']!r}}}",
        "truncatedAlerts": 0,
        "status": "firing" if firing else "resolved",
        "receiver": "esper",
        "groupLabels": {"alertname": alerts[0]["name"]},
        "commonLabels": _common([each["labels"] for each in told]),
        "commonAnnotations": _common([each["annotations"] for each in told]),
        "externalURL": page_url,
        "alerts": told,
    }


def _alertmanager(alert: Alert, page_url: str) -> dict[str, Any]:
    ended = alert["ended_at"]
    seen = {"acknowledged_by": alert["acknowledged_by"]} if alert["acknowledged_by"] else {}
    return {
        "status": "resolved" if alert["state"] == "resolved" else "firing",
        "labels": {"alertname": alert["name"], "severity": alert["level"], **alert["labels"]},
        "annotations": {"summary": alert["summary"], **seen},
        "startsAt": _iso(alert["started_at"]),
        "endsAt": _iso(ended) if ended is not None else "0001-01-01T00:00:00Z",
        "generatorURL": page_url,
        "fingerprint": alert["id"],
    }


def chat_body(alerts: Sequence[Alert], page_url: str) -> dict[str, Any]:
    """The body of a Slack-compatible incoming webhook."""
    lines = [f"{_MARKS[alert['state']]} {alert['state']} {line(alert)}" for alert in alerts]
    text = "\n".join([f"*{headline(alerts)}*", *lines, *([page_url] if page_url else [])])
    return {"text": _escaped(text)}


def _escaped(text: str) -> str:
    """Slack reads only these three as markup that could address somebody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def pager_body(alert: Alert, routing_key: str, page_url: str) -> dict[str, Any]:
    """One alert as an event of PagerDuty's Events API, version 2; its id makes it one incident."""
    links = [{"href": page_url, "text": "Esper"}] if page_url else []
    return {
        "routing_key": routing_key,
        "event_action": _PAGER_ACTIONS[alert["state"]],
        "dedup_key": f"esper/{alert['id']}",
        "links": links,
        "payload": {
            "summary": f"{alert['name']}: {alert['summary']}"[:1024],
            "source": "esper",
            "severity": alert["level"] if alert["level"] in _SEVERITIES else "warning",
            "timestamp": _iso(alert["started_at"]),
            "class": alert["name"],
            "custom_details": {**alert["labels"], "value": alert["value"]},
        },
    }


def mail_message(alerts: Sequence[Alert], sender: str, to: str, page_url: str) -> EmailMessage:
    """A plain mail about a group of alerts."""
    message = EmailMessage()
    subject = " ".join(f"[esper] {headline(alerts)}".split())  # a line break would end the header
    message["Subject"] = subject[:200]
    message["From"], message["To"] = sender, to
    lines = [f"{alert['state']}: {line(alert)}" for alert in alerts]
    began = f"since {_iso(min(alert['started_at'] for alert in alerts))}"
    message.set_content("\n".join([*lines, began, *([page_url] if page_url else [])]) + "\n")
    return message


_SEVERITIES = ("critical", "error", "warning", "info")


def _common(maps: Sequence[Mapping[str, str]]) -> dict[str, str]:
    first, *rest = maps
    return {key: text for key, text in first.items() if all(each.get(key) == text for each in rest)}


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat().replace("+00:00", "Z")
