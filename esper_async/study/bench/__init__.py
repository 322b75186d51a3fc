"""The benchmarks: each has its baseline in the same run, a bar, and mutants that must fail it.

`benchmark` holds the words (figure, row, verdict, mutant), `interleave` the timing, `runner` runs
what `registry` names, `report` writes it down, `cases` has one file a benchmark. Run them with
`bin/esper-supervisor bench`. A bar that no mutant can fail is not a bar.
"""
