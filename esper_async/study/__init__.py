"""Comparisons between ways of training, and the benchmarks with their bars.

`statistics` says how sure a comparison over runs is; `bench` measures Esper against a baseline in
the same run and checks that deliberately broken variants are caught.
"""
