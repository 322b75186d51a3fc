"""What is known of a blueprint at a site when it is planted: eight numbers, with a version.

The `bandit` policy decides by them, decision records carry them, and what was learned from records
of one version is refused by a policy of another.
"""

from typing import Any

from esper_async.karn.catalogue import Catalogue
from esper_async.tamiyo.command import Command, Germinate
from esper_async.tamiyo.feature_versions import PLACEMENT_VERSION
from esper_async.tamiyo.offer import Offer
from esper_async.tamiyo.view import View


def planted_features(command: Command, view: View, catalogue: Catalogue) -> dict[str, Any] | None:
    """Return the features of a command's candidates, in their order, as JSON values.

    None for a command that plants nothing, or something that the view did not offer.
    """
    if not isinstance(command, Germinate):
        return None
    places = {(each.site, each.blueprint): place for place, each in enumerate(view.placements)}
    found = [places.get((each.site, each.blueprint)) for each in command.candidates]
    chosen = [place for place in found if place is not None]
    if len(chosen) != len(found):
        return None
    values = Offer.of(view, catalogue).features()[chosen]
    return {"version": PLACEMENT_VERSION, "values": values.tolist()}
