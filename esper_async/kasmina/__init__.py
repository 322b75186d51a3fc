"""Kasmina, the executor: seeds inside the model, their lifecycle and gates.

It obeys commands and never decides. `interface` says what a site looks like, `kernels` holds the
blueprints' modules, `proof` certifies them; the rest attaches, trains, blends and judges seeds.
"""
