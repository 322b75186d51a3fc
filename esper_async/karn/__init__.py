"""Karn, the catalogue: fifty approved blueprints in three safety tiers. It invents no new ones.

`catalogue.Catalogue` answers queries and keeps the adversarial tier from every live run;
`selection.Selector` does so for the service, with tallies, a breaker and the conservative fallback.
`generated` is written from the kernels by `esper_async.kasmina.catalogue`; torch is not needed.
"""
