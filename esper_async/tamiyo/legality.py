"""Which operations are legal on a seed, from the lifecycle's own table of transitions.

An operation is legal in a stage if what it is for is a transition that the table allows from there.
Whether a gate lets it pass, the gate decides.
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from esper_async.kasmina.stage import TRANSITIONS, Stage

Operation = Literal[
    "NO_OP",
    "GERMINATE",
    "CULL",
    "FOSSILIZE",
    "START_TRAINING",
    "START_GRAFTING",
    "STABILIZE",
    "EVALUATE",
    "FINE_TUNE",
    "CANCEL",
]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
NO_OP, GERMINATE = OPERATIONS.index("NO_OP"), OPERATIONS.index("GERMINATE")


def _leads_to(*targets: Stage) -> Callable[[Stage], bool]:
    return lambda stage: all(target in TRANSITIONS[stage] for target in targets)


def _is_measured(stage: Stage) -> bool:
    """Whether a seed in this stage computes something, and can still be removed."""
    goes_on = TRANSITIONS[stage] - {Stage.TRAINING, Stage.CULLED, Stage.TERMINATED}
    return Stage.CULLED in TRANSITIONS[stage] and bool(goes_on)


_LEGAL: Mapping[Operation, Callable[[Stage], bool]] = {
    "CULL": _leads_to(Stage.CULLED),
    "FOSSILIZE": _leads_to(Stage.FOSSILIZED),
    "START_TRAINING": _leads_to(Stage.TRAINING),
    "START_GRAFTING": _leads_to(Stage.BLENDING),
    "STABILIZE": _leads_to(Stage.SHADOWING),  # alpha moves only in the stage before it
    "EVALUATE": _is_measured,
    "FINE_TUNE": _leads_to(Stage.SHADOWING),  # of a policy's: another ramp
    "CANCEL": _leads_to(Stage.TRAINING, Stage.CULLED),
}


def is_legal(operation: Operation, stage: Stage) -> bool:
    """Whether an operation on a seed in a stage is one that the lifecycle knows."""
    return operation in _LEGAL and _LEGAL[operation](stage)


_BY_STAGE: dict[Stage, NDArray[np.bool_]] = {
    stage: np.array([is_legal(operation, stage) for operation in OPERATIONS]) for stage in Stage
}


def seed_operations(stage: Stage) -> NDArray[np.bool_]:
    """Return (O,): which operations are legal on a seed in a stage."""
    return _BY_STAGE[stage]


def legal_operations(seed_legal: NDArray[np.bool_], *, may_germinate: bool) -> NDArray[np.bool_]:
    """Return (O,): which operations have something to act on, by `seed_legal` (O, M).

    To do nothing is always legal, so the mask is never empty.
    """
    legal: NDArray[np.bool_] = np.any(seed_legal, axis=1)
    legal[GERMINATE] = may_germinate
    legal[NO_OP] = True
    return legal
