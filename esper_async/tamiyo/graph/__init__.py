"""The state of a run as a graph: typed nodes with documented features, typed edges, tensors.

`features` says what a node carries, `relations` which edges there are, `structure` lays a topology
out once, `builder` fills in what changes at every boundary. Only the last two need torch.
"""
