"""Nissa, the eyes: metrics, events, alerts, the HTTP API, the stream and the operator's page.

It watches and never acts on the training: what an operator asks for is handed to the run manager.
`ingest` and `event_store` take in what the bus carries, `app.build_routes` makes the routes that
the supervisor's listener serves, `service` is the supervisor's side. What Nissa calls of other
parts stands in `ports`; nothing here imports them.
"""
