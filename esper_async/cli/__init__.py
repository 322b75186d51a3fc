"""The command line: `main.main` is the entry point; nothing heavy is imported before it is needed.

`up` runs the supervisor in this process; everything else speaks to one that runs, over HTTP
(`client`). Results go to stdout, as text or as one JSON document; logs and errors go to stderr.
"""
