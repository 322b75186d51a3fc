"""The training engine; see service.py for its supervisor side."""
