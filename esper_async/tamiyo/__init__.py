"""Tamiyo, the controller: state in, one adaptation command out.

It never touches the model. `policies` decide, `reports` tells afterwards what a command brought;
the supervisor's side (`service`) keeps the live picture of every run.
"""
