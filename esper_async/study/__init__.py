"""Comparisons between ways of training, and the benchmarks with their bars.

`command.run_study` runs a plan (`plan`): cells in child processes (`pool`, `worker`, `running`)
over a ledger of results (`ledger`), part after part (`conduct`), then `analysis` and `page`.
`statistics` says how sure a comparison over runs is; `bench` measures Esper against a baseline in
the same run and checks that deliberately broken variants are caught.
"""
