"""The risk budget at work: what was measured of local models, and what it allows them under each policy."""

from .allowance import NO_BUDGETS, Budgets, configured_ability
from .calibration import Calibration, CalibrationError

__all__ = ["NO_BUDGETS", "Budgets", "Calibration", "CalibrationError", "configured_ability"]
