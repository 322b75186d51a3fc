"""The async test harness: boots the real thing in a test and injects faults.

The pytest plugin gives tests the fixture `esper`, a `harness.Esper`: the supervisor in the test's
event loop, on a free port, with its own state directory and its own real Redis. Its `faults` kill,
freeze and corrupt. At the end `leaks` checks that nothing is left behind.
"""
