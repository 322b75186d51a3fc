"""Simic, the coach: keeps what was decided and what became of it, to learn better policies from.

It never touches a live run. Field reports and decision records come from the bus into a durable
store, each once, and are joined into trajectories; rewards are a versioned formula over the causal
quantities alone. `simic.learn` makes an ensemble for the policy `awr` or a belief for `bandit`;
`simic.registry` keeps those that were judged, and lets those that passed decide. The supervisor
side, `simic.service`, runs no learner: people call `learn`.
"""

from esper_async.simic.experience import Experience, experiences_of
from esper_async.simic.schema import Query
from esper_async.simic.store import Bounds, ExperienceStore, Intake
from esper_async.simic.trajectory import Step, Trajectory

__all__ = [
    "Bounds",
    "Experience",
    "ExperienceStore",
    "Intake",
    "Query",
    "Step",
    "Trajectory",
    "experiences_of",
]
