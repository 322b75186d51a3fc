"""Fault drills: real faults against a real supervisor in a throw-away state directory.

`stage` is that supervisor, `seams` reach into it where no fault from outside can, `faults` are what
strikes it, `audit` says what was lost, `drill` holds one after the other and `soak` many at random.
`alert_faults` provoke alerts, `judges` say what fires, and `alert_drill` holds each to it.
"""
