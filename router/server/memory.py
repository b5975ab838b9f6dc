"""How often a server looks for cyclic garbage: seldom, and not among what it loaded at its start."""

from __future__ import annotations

import gc

# New objects that make Python look (its own figure is 700). A request makes a few hundred that die with it by
# reference count, so that with many requests under way nearly all looking is in vain. In a look at so many objects a
# request waits a millisecond or two.
NEW_OBJECTS = 20_000


def settle() -> None:
    """Leave what is loaded now out of every later look for garbage.

    Models, settings, routes and modules are some 300,000 objects that live as long as the server, and a full look
    walks through all of them: without this, a fourth of a request's processor time. What is not reachable any more (a
    gateway that was replaced) is freed first. Only for a process of our own: a library leaves its program's collector
    alone.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    _, older, oldest = gc.get_threshold()
    gc.set_threshold(NEW_OBJECTS, older, oldest)
