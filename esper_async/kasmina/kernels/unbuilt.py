"""The blueprints that have no kernel yet: they stand in the catalogue and cannot be planted.

Whoever writes one of these kernels declares it there, with `@register`, and strikes it out here.
"""

from esper_async.kasmina.interface import InterfaceKind
from esper_async.kasmina.kernels.blueprint import Blueprint, Output, Tier

_SPATIAL: tuple[InterfaceKind, ...] = ("spatial",)
_MIXING: tuple[InterfaceKind, ...] = ("spatial", "sequence")
_ALL: tuple[InterfaceKind, ...] = ("spatial", "sequence", "feature")


def _planned(
    number: int,
    name: str,
    stage: int,
    risk: float,
    kinds: tuple[InterfaceKind, ...],
    description: str,
    output: Output = "change",
    tier: Tier = "production",
) -> Blueprint:
    return Blueprint(
        id=f"BP{number:03}",
        name=name,
        stage=stage,
        risk=risk,
        output=output,
        description=description,
        kinds=kinds,
        tier=tier,
    )


def _adversarial(number: int, name: str, risk: float, description: str) -> Blueprint:
    return _planned(number, name, 6, risk, _ALL, description, "replacement", "adversarial")


UNBUILT: tuple[Blueprint, ...] = (
    _planned(4, "dropout_light", 0, 0.2, _ALL, "Drops few values while training.", "replacement"),
    _planned(6, "batch_norm_1d", 0, 0.2, ("feature",), "Adds the features normalised by batch."),
    _planned(19, "cross_attention", 2, 0.5, _MIXING, "Positions attend to learned tokens."),
    _planned(24, "conv_transformer", 3, 0.5, _MIXING, "A convolution, then attention, as a block."),
    _planned(25, "dynamic_conv", 3, 0.5, _MIXING, "A convolution whose taps follow the input."),
    _planned(26, "adaptive_pooling", 3, 0.5, _MIXING, "Adds what pools of several sizes hold."),
    _planned(27, "feature_pyramid", 3, 0.5, _SPATIAL, "Looks at several scales, coarse to fine."),
    _planned(30, "graph_attention", 4, 0.5, _MIXING, "Attention along a learned graph."),
    _planned(33, "deformable_conv", 4, 0.5, _SPATIAL, "A convolution that moves its taps."),
    _adversarial(46, "infinite_loop", 1.0, "Does not return from its forward."),
    _adversarial(47, "memory_leak", 1.0, "Keeps every activation it has seen."),
    _adversarial(48, "deadlock_pattern", 1.0, "Waits for a lock that it holds."),
    _adversarial(49, "race_condition", 0.9, "Writes its weights from two threads at once."),
)
