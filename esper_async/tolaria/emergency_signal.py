"""Emergencies as the bus carries them; the supervisor and the training processes send them.

What a run's own guards raise has been answered by the run when it is told.
"""

import uuid

from esper_async.leyline import (
    SCHEMA_VERSION,
    EmergencyLevel,
    EmergencySignal,
    value_of,
)
from esper_async.tolaria.emergency import LEVELS, MOST_REASON, Level


def signal_of(
    run_id: str,
    level: Level,
    reason: str,
    *,
    issued_by: str,
    issued_at: float,
    signal_id: str | None = None,
) -> EmergencySignal:
    """Return the message about an emergency of a run, or of every run where `run_id` is empty.

    `issued_at` is Unix time in seconds. Without an id the signal gets a new one; a reason that is
    too long is cut.
    """
    return EmergencySignal(
        version=SCHEMA_VERSION,
        signal_id=signal_id or uuid.uuid4().hex,
        run_id=run_id,
        level=value_of(EmergencyLevel, level),
        reason=reason[:MOST_REASON],
        issued_at=issued_at,
        issued_by=issued_by,
    )


def level_of(signal: EmergencySignal) -> Level | None:
    """Return a signal's level; None for one that is not known here."""
    known = {value_of(EmergencyLevel, name): name for name in LEVELS}
    return known.get(signal.level)


def issuer(run_id: str) -> str:
    """Return what a run calls itself where it issues a signal."""
    return f"run {run_id}"


def is_answered(signal: EmergencySignal) -> bool:
    """Whether a signal tells of what the run itself has put right already."""
    return bool(signal.run_id) and signal.issued_by == issuer(signal.run_id)
