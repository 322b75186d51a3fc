"""The network of the graph policy: a dense graph transformer with pointer heads.

`transformer` is the trunk, `heads` point at nodes, `policy_network` joins them to a graph's
tensors, `choosing` draws an action from the scores, `policy_file` keeps weights on disk.
"""

from esper_async.tamiyo.network.heads import PolicyOutput
from esper_async.tamiyo.network.policy_network import GraphBatch, NetworkForm, PolicyNetwork

__all__ = ["GraphBatch", "NetworkForm", "PolicyNetwork", "PolicyOutput"]
