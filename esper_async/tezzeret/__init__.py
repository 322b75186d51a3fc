"""Tezzeret, the forge: proves (and, in time, compiles) kernels in the background.

It never blocks anyone. A durable queue of what Urza lacks, one worker process at the lowest
priority that exists only while there is work, certificates into the library, answers on the bus.
The supervisor side is `tezzeret.service`, the worker's `tezzeret.worker` (the only module that
imports torch); neither is imported here.
"""
