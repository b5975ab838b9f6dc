"""Models: the one shape of them, and the kinds that a settings file can name."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..settings import Settings
    from .base import Model

__all__ = ["make_models"]


def make_models(settings: Settings, *, without: Collection[str] = ()) -> dict[str, Model]:
    """Return the configured models by name, but for those `without`. Nothing is loaded or connected yet."""
    # Imported here: a local model's process lives in this package too, and needs none of it.
    from ..settings import LocalModelSettings
    from .cloud import CloudModel
    from .local.memory import MemoryBudget
    from .local.model import LocalModel

    budget = MemoryBudget(settings.models_memory)
    return {
        spec.name: LocalModel(spec, models_dir=settings.models_dir, budget=budget)
        if isinstance(spec, LocalModelSettings)
        else CloudModel(spec)
        for spec in settings.models
        if spec.name not in without
    }
