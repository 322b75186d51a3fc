"""Test harness: boots the real thing in a test and injects faults."""
