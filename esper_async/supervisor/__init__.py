"""The supervisor: one process that starts, watches, restarts and stops every service.

`settings` holds every setting, `state_dir` what must be true of the directory, `http` the listener
and its probes, `tree` the cells in their dependency order, `assembly` which services there are, and
`app` puts them together. It never imports torch.
"""
