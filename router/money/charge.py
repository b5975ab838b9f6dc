"""What an attempt took, and what that comes to in money, energy and emissions."""

from __future__ import annotations

import msgspec

from .usage import Usage


class Footprint(msgspec.Struct, frozen=True):
    """What a call took of the world. Estimates, all of them; see docs/money.md.

    Attributes:
        energy_wh: Watt-hours, cooling and losses of the building included; None where unknown.
        gco2e: Grams of CO2 equivalent; None where unknown.
    """

    energy_wh: float | None = None
    gco2e: float | None = None


NO_FOOTPRINT = Footprint(0.0, 0.0)
UNKNOWN_FOOTPRINT = Footprint()


class Charge(msgspec.Struct, frozen=True):
    """What an attempt took, and what that comes to.

    Attributes:
        usage: Of all its samples and tries.
        cost_usd: None where the price is unknown.
        footprint: What it took of the world.
    """

    usage: Usage
    cost_usd: float | None
    footprint: Footprint


# Of an attempt that nothing was used for.
NO_CHARGE = Charge(Usage(), 0.0, NO_FOOTPRINT)
