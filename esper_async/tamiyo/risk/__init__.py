"""The risk engine: it weighs a run's signals and a proposed command, and may refuse the command.

`signals` measure, `thresholds` decide the level, `engine` joins them, `mitigation` says what is
left of a command, `pauses` counts what the engine may ask for, `scoring` tells afterwards how good
its predictions were.
"""
