"""Sites and legal pairs as values that can be saved, and back again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.legal import LegalPair
from esper_async.kasmina.sites import Site


def site_state(site: Site) -> dict[str, Any]:
    """Return a site as plain values."""
    return asdict(site)


def restore_site(state: Mapping[str, Any]) -> Site:
    """Return the site that `site_state` wrote."""
    interface = dict(state["interface"])
    interface["shape"] = tuple(interface["shape"])
    return Site(
        name=state["name"],
        path=state["path"],
        interface=SiteInterface(**interface),
        form=state["form"],
        depth=state["depth"],
    )


def pair_state(pair: LegalPair) -> dict[str, Any]:
    """Return a legal pair as plain values, its site by name."""
    return {
        "site": pair.site.name,
        "blueprint": pair.blueprint,
        "blend": pair.blend,
        "parameters": pair.parameters,
        "saved_bytes": pair.saved_bytes,
    }


def restore_pair(state: Mapping[str, Any], sites: Sequence[Site]) -> LegalPair:
    """Return the legal pair that `pair_state` wrote."""
    by_name = {site.name: site for site in sites}
    measured = state["parameters"], state["saved_bytes"]
    return LegalPair(by_name[state["site"]], state["blueprint"], state["blend"], *measured)


def places_text(sites: Sequence[Site], pairs: Sequence[LegalPair]) -> str:
    """Return sites and what is legal there as one text: there may be hundreds of pairs.

    A state with all of them in it would be walked through at each checkpoint.
    """
    return json.dumps([list(map(site_state, sites)), list(map(pair_state, pairs))])


def restore_places(text: str) -> tuple[list[Site], list[LegalPair]]:
    """Return what `places_text` was given."""
    saved_sites, saved_pairs = json.loads(text)
    sites = [restore_site(site) for site in saved_sites]
    return sites, [restore_pair(pair, sites) for pair in saved_pairs]
