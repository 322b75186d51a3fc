"""One file a benchmark: what is measured, against what, and how to break it."""
