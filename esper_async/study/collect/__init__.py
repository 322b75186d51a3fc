"""Planned exploration: many small runs under randomised policies, into the store of experience."""
