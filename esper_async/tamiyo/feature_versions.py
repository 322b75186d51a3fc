"""Which features learned policies decide by. Torch- and numpy-free.

Features that come to mean something else get another version: what was learned for the old one is
refused, and is not active for the new one.
"""

PLACEMENT_VERSION = "placement-1"
"""Of a placement, by which `learned` decides."""
GRAPH_VERSION = "graph-2"
"""Of a node of the graph, by which `gnn` decides."""
