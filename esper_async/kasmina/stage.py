"""A seed's lifecycle: its stages and the transitions that are legal between them."""

from enum import IntEnum


class Stage(IntEnum):
    """Where a seed is in its life; numbers are those of the `SeedLifecycleStage` contract."""

    DORMANT = 1
    GERMINATED = 2
    TRAINING = 3
    BLENDING = 4
    SHADOWING = 5
    PROBATIONARY = 6
    FOSSILIZED = 7
    CULLED = 8
    EMBARGOED = 9
    RESETTING = 10
    TERMINATED = 11


ACTIVE = (
    Stage.GERMINATED,
    Stage.TRAINING,
    Stage.BLENDING,
    Stage.SHADOWING,
    Stage.PROBATIONARY,
)
CANDIDATE = (Stage.GERMINATED, Stage.TRAINING)
"""Stages in which a seed is in a tournament: it trains in shadow, or waits to."""
ON_TRIAL = (Stage.BLENDING, Stage.SHADOWING, Stage.PROBATIONARY)
"""Stages in which a seed is in the forward pass and not yet kept: at most one seed of a run."""
RESTING = (Stage.CULLED, Stage.EMBARGOED, Stage.RESETTING)
"""Stages of a removed seed in which its site takes no other."""

TRANSITIONS: dict[Stage, frozenset[Stage]] = {
    Stage.DORMANT: frozenset({Stage.GERMINATED, Stage.TERMINATED}),
    Stage.GERMINATED: frozenset({Stage.TRAINING, Stage.CULLED, Stage.TERMINATED}),
    Stage.TRAINING: frozenset({Stage.BLENDING, Stage.CULLED, Stage.TERMINATED}),
    Stage.BLENDING: frozenset({Stage.SHADOWING, Stage.CULLED, Stage.TERMINATED}),
    Stage.SHADOWING: frozenset({Stage.PROBATIONARY, Stage.CULLED, Stage.TERMINATED}),
    Stage.PROBATIONARY: frozenset({Stage.FOSSILIZED, Stage.CULLED, Stage.TERMINATED}),
    Stage.FOSSILIZED: frozenset({Stage.TERMINATED}),
    Stage.CULLED: frozenset({Stage.EMBARGOED, Stage.TERMINATED}),
    Stage.EMBARGOED: frozenset({Stage.RESETTING, Stage.TERMINATED}),
    Stage.RESETTING: frozenset({Stage.DORMANT, Stage.TERMINATED}),
    Stage.TERMINATED: frozenset(),
}


class IllegalTransitionError(RuntimeError):
    """A stage change that the lifecycle does not allow; nothing was changed."""


def check_transition(seed_id: str, source: Stage, target: Stage) -> None:
    """Raise `IllegalTransitionError` unless `source` may be left for `target`."""
    if target not in TRANSITIONS[source]:
        allowed = ", ".join(stage.name for stage in sorted(TRANSITIONS[source])) or "nothing"
        raise IllegalTransitionError(
            f"seed {seed_id} cannot go from {source.name} to {target.name}; "
            f"from {source.name} it may go to: {allowed}"
        )
