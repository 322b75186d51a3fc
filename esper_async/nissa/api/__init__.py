"""The HTTP API, one file a resource; `ROUTES` is all of it."""
