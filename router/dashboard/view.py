"""What a viewer has chosen to see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from ..errors import InvalidRequest
from ..ledger.report import GROUPS

RANGES: Final[Mapping[str, timedelta | None]] = {
    "1h": timedelta(hours=1),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "all": None,
}
PARAMETERS: Final = ("range", "by", "tenant")


@dataclass(frozen=True, slots=True)
class View:
    """A part of the ledger: its time, its groups and whose it is.

    Attributes:
        range: Of `RANGES`.
        by: Of the report's groups.
        tenant: None: everybody's.
    """

    range: str = "24h"
    by: str = "model"
    tenant: str | None = None

    @classmethod
    def of(cls, query: Mapping[str, str], own: str | None) -> View:
        """Read a URL's query.

        Args:
            query: The parameters of `PARAMETERS`, all optional.
            own: The only tenant that the viewer may see; None: all.

        Raises:
            InvalidRequest: A range or a group is none of those that there are.
        """
        span, by = query.get("range", cls().range), query.get("by", cls().by)
        if span not in RANGES:
            raise InvalidRequest(f"There is no such range; there are {', '.join(RANGES)}.", param="range")
        if by not in GROUPS:
            raise InvalidRequest(f"There is no such group; there are {', '.join(GROUPS)}.", param="by")
        return cls(span, by, own or query.get("tenant") or None)

    def since(self, now: datetime) -> datetime | None:
        """Return when its time begins; None: with the ledger."""
        span = RANGES[self.range]
        return None if span is None else now - span

    def query(self, **changes: str) -> str:
        """Return the query that stands for it in a URL, with some parameters changed."""
        named = {"range": self.range, "by": self.by, **({"tenant": self.tenant} if self.tenant else {})}
        return urlencode({**named, **changes})
