"""The dashboard: a ledger's figures while they change, for people who look at them. Its HTTP is `server.dashboard`."""

from .feed import Feed, TooManyViewers
from .figures import Figures, figures_of
from .sessions import Sessions
from .view import RANGES, View

__all__ = ["RANGES", "Feed", "Figures", "Sessions", "TooManyViewers", "View", "figures_of"]
