"""The commands by topic, each module with those it puts on the command line."""
