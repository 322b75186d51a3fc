"""Tezzeret, the forge: proves and compiles kernels in the background.

It never blocks anyone. A durable queue of what Urza lacks, workers at the lowest priority that
exist only while there is work, certificates and kernels into the library, answers on the bus. The
supervisor side is `tezzeret.service`, a worker's `tezzeret.worker` (with `tezzeret.compilation` the
only modules that import torch); neither is imported here.
"""
