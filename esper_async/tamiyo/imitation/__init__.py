"""How the graph policy gets its first weights: by imitating the heuristic.

`states` draws runs as they may stand at a boundary, `likelihood` says how likely a network makes an
action, `teach` trains. `python -m esper_async.tamiyo.imitation` makes the shipped file.
"""
