"""`torch.compile` of a host, or of regions of it, while seeds come and go.

`region` holds what is compiled, `choice` says what that is, `taken_over` undoes what the caller had
compiled beforehand, `watch` counts, and `host` is what a run has of all of it.
"""
