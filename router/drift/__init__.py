"""Drift: sequential tests that say when traffic is no longer what the router was calibrated on."""

from .loss import LossDrift
from .monitor import DriftMonitor, Source
from .scores import Histogram, ScoreDrift, ScoreReference

__all__ = ["DriftMonitor", "Histogram", "LossDrift", "ScoreDrift", "ScoreReference", "Source"]
