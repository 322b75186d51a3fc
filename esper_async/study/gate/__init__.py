"""The gate: what was learned is published only if fresh runs do no worse by it."""
