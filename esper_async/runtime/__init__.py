"""What every service stands on: clocks, breakers, restart limits, cells, children, logs, metrics.

Nothing here knows a subsystem. `service.Service` is the shape of one; `cell.Cell` runs one behind
an edge that its failure cannot pass; `child.Child` owns a child process (the only module that
spawns any) and `child_main.ChildLink` is that child's view of its parent; `breaker.CircuitBreaker`
guards every call that leaves a service's own memory. Time and randomness are injected.
"""
