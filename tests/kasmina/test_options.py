"""Growth options: a value that means nothing is refused with what would be right."""

from typing import Any

import pytest
import torch
from torch import nn

from esper_async import Grower, grow
from esper_async.kasmina.options import GrowthOptions
from tests.tolaria.growth_tasks import listed


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"twin": "of"}, "growth.twin knows no 'of'; did you mean 'off'"),
        (
            {"tiers": ["produktion"]},
            "growth.tiers knows no 'produktion'; did you mean 'production'",
        ),
        ({"tiers": ["adversarial"]}, "the adversarial tier is refused for any live run"),
        ({"tiers": "production"}, r"growth.tiers is a list, like \['production'\]"),
        ({"relative_margins": "atuo"}, "did you mean 'auto'"),
        ({"tournament": "halves"}, "growth.tournament knows no 'halves'; did you mean 'halving'"),
        ({"first_round_steps": 0}, 'first_round_steps must be at least 1, or "auto", not 0'),
        ({"max_seeds": 0}, "growth.max_seeds must be at least 1, not 0"),
        ({"window_boundaries": 0}, "growth.window_boundaries must be at least 1"),
        ({"embargo_boundaries": -1}, "growth.embargo_boundaries must be at least 0"),
        ({"parameter_budget": float("nan")}, "growth.parameter_budget must be > 0, not nan"),
        ({"g4_margin": float("nan")}, "growth.g4_margin must be finite"),
    ],
)
def test_a_value_that_means_nothing_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        GrowthOptions.of(given)
    with pytest.raises(ValueError, match=told):
        grow(listed(), epochs=1, growth=given, state_dir=None)


def test_a_drill_may_name_every_tier() -> None:
    assert GrowthOptions(tiers=("adversarial", "planted"), drill=True).drill


def test_an_unknown_key_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(TypeError, match="'max_seed'; did you mean 'max_seeds'"):
        GrowthOptions.of({"max_seed": 3})


@pytest.mark.parametrize(
    ("blueprints", "growth", "told"),
    [
        (["BP999"], {}, "there is no kernel 'BP999'"),
        ("BP001", {}, "a list of ids"),
        (["BP045"], {}, "adversarial: refused"),
        (["BP001"], {"tiers": ["experimental"]}, "BP001 is of the tier 'production'"),
    ],
)
def test_a_blueprint_that_could_never_be_planted_is_refused(
    blueprints: Any, growth: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        grow(listed(), epochs=1, blueprints=blueprints, growth=growth, state_dir=None)


def test_a_grower_takes_its_growth_options_as_a_mapping_too() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    grower = Grower(model, optimizer, loss=nn.functional.mse_loss, growth={"max_seeds": 2})
    assert grower.options == GrowthOptions(max_seeds=2)
