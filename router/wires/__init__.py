"""The wires that clients speak: each translates its own form to the one internal request, and the answer back.

A wire is pure: it reads and writes JSON and knows no models, no HTTP and no clock but for ids and dates. `base` says
what all of them look like.
"""

from .base import Call, Events

__all__ = ["Call", "Events"]
