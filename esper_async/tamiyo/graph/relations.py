"""The kinds of edges between nodes; each has its own learned bias in every attention head."""

from enum import IntEnum


class Relation(IntEnum):
    """How a node sees another. Every pair of nodes has one; most are of `NONE`."""

    NONE = 0
    SELF = 1
    RUN = 2
    NEXT_LAYER = 3
    PREVIOUS_LAYER = 4
    LAYER_SEED = 5
    SEED_LAYER = 6
    LAYER_ACTIVATION = 7
    ACTIVATION_LAYER = 8
    PARAMETER_LAYER = 9
    LAYER_PARAMETER = 10
    SAME_SITE = 11
    SEED_SEED = 12
    SEED_BLUEPRINT = 13
    BLUEPRINT_SEED = 14
    BLUEPRINT_LAYER = 15
    LAYER_BLUEPRINT = 16
