"""A bill of some requests: what ran where, what it cost, and what all-cloud would have cost. Made of receipts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ..answer import Receipt
from ..ledger.render import share, usd


@dataclass(frozen=True, slots=True)
class BillLine:
    """Some requests, added up. Money is in US dollars.

    Attributes:
        route: `local`, `cloud` or `cache`; empty on the total.
        model: That answered; empty on the total.
        cost_usd: Sum of the known costs.
        unknown: Requests whose cost is not known; they are in no sum.
        all_cloud_usd: What the baseline cloud model would have cost for the requests whose both costs are known; None
            where there are none, as without a cloud model.
        saved_usd: `all_cloud_usd` less the cost of the same requests; None as there.
    """

    route: str
    model: str
    requests: int
    cost_usd: float
    unknown: int
    all_cloud_usd: float | None
    saved_usd: float | None

    @classmethod
    def of(cls, receipts: Sequence[Receipt], *, route: str = "", model: str = "") -> BillLine:
        """Add receipts up."""
        costs = [receipt.cost_usd for receipt in receipts if receipt.cost_usd is not None]
        both = [
            (r.cost_usd, r.saved_usd) for r in receipts if r.cost_usd is not None and r.saved_usd is not None
        ]
        return cls(
            route=route,
            model=model,
            requests=len(receipts),
            cost_usd=sum(costs),
            unknown=len(receipts) - len(costs),
            all_cloud_usd=sum(cost + saved for cost, saved in both) if both else None,
            saved_usd=sum(saved for _, saved in both) if both else None,
        )


class Bill:
    """Collects receipts, from any thread; `str()` gives it as a table.

    >>> bill = Bill()
    >>> bill.add(answer.receipt)            # doctest: +SKIP
    >>> print(bill)                         # doctest: +SKIP
    """

    def __init__(self, receipts: Sequence[Receipt] = ()) -> None:
        self._receipts = list(receipts)

    def add(self, receipt: Receipt) -> None:
        """Take a request's receipt; of a stream, the one it has at its end."""
        self._receipts.append(receipt)

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """What was taken, in order."""
        return tuple(self._receipts)

    @property
    def lines(self) -> tuple[BillLine, ...]:
        """One line for each route and model, most requests first."""
        groups: dict[tuple[str, str], list[Receipt]] = {}
        for receipt in self.receipts:
            groups.setdefault((receipt.route, receipt.model), []).append(receipt)
        lines = [BillLine.of(found, route=route, model=model) for (route, model), found in groups.items()]
        return tuple(sorted(lines, key=lambda line: (-line.requests, line.route, line.model)))

    @property
    def total(self) -> BillLine:
        """All requests."""
        return BillLine.of(self.receipts)

    def __str__(self) -> str:
        total = self.total
        grid = Table(title="The bill", title_justify="left")
        grid.add_column("ran")
        grid.add_column("model", no_wrap=True)
        for name in ("requests", "cost", "all-cloud"):
            grid.add_column(name, justify="right", no_wrap=True)
        for line in self.lines:
            grid.add_row(line.route, line.model, *_figures(line))
        grid.add_section()
        grid.add_row("total", "", *_figures(total))
        out = io.StringIO()
        Console(file=out, width=100, no_color=True).print(grid)
        return out.getvalue() + _summary(total)


def _figures(line: BillLine) -> tuple[str, str, str]:
    cost = usd(line.cost_usd) + (f" +{line.unknown} unknown" if line.unknown else "")
    return f"{line.requests:,}", cost, "-" if line.all_cloud_usd is None else usd(line.all_cloud_usd)


def _summary(total: BillLine) -> str:
    if total.all_cloud_usd is None or total.saved_usd is None:
        return "Nothing to compare with: no price of a cloud model is known for these requests."
    part = f" ({share(total.saved_usd / total.all_cloud_usd)})" if total.all_cloud_usd > 0 else ""
    unlike = " of the requests whose cost is known" if total.unknown else ""
    return (
        f"All-cloud would have cost {usd(total.all_cloud_usd)}{unlike}; saved {usd(total.saved_usd)}{part}."
    )
