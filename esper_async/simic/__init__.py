"""Simic, the coach: keeps what was decided and what became of it, to learn better policies from.

It never touches a live run. Field reports and decision records come from the bus into a durable
store, each once, and are joined into trajectories; rewards are a versioned formula over the causal
quantities alone. No learner is configured yet. The supervisor side is `simic.service`.
"""

from esper_async.simic.store import Bounds, ExperienceStore, Intake
from esper_async.simic.trajectory import Step, Trajectory

__all__ = ["Bounds", "ExperienceStore", "Intake", "Step", "Trajectory"]
