"""The sites that kernels are tested at: three shapes of each kind, small and awkward ones too."""

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import blueprints_for

SITES = (
    SiteInterface("spatial", (8, 1, 40)),
    SiteInterface("spatial", (3, 5, 4)),
    SiteInterface("spatial", (16, 7, 7)),
    SiteInterface("sequence", (32, 64)),
    SiteInterface("sequence", (3, 6)),
    SiteInterface("sequence", (2, 2)),
    SiteInterface("feature", (64,)),
    SiteInterface("feature", (10,)),
    SiteInterface("feature", (3,)),
)

# Every production and experimental blueprint at every one of these sites that it claims.
PLANTINGS = [
    (blueprint.id, site)
    for site in SITES
    for blueprint in blueprints_for(site)
]  # fmt: skip


def planting_id(value: object) -> str:
    """Name a test case by its blueprint or its site."""
    return value.key if isinstance(value, SiteInterface) else str(value)
