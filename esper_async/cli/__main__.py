"""`python -m esper_async.cli`: the command line."""

from esper_async.cli.main import main

main()
