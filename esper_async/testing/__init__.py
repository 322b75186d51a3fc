"""The async test harness: boots the real thing in a test and injects faults.

The pytest plugin (`plugin.py`) gives tests the fixture `esper`, an `harness.Esper`: the supervisor in
the test's event loop, on a free port, with its own state directory and its own real Redis. Its
`faults` kill, freeze and corrupt. At the end `leaks` checks that nothing is left behind.
"""
