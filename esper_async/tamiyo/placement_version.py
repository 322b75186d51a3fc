"""Which features of a placement a learned policy decides by. Torch- and numpy-free.

Features that come to mean something else get another version: what was learned for the old one is
refused, and is not active for the new one.
"""

PLACEMENT_VERSION = "placement-1"
