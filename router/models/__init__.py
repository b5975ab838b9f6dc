"""Models: the one shape of them, and the kinds that a settings file can name."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..settings import Settings
    from .base import Model

__all__ = ["make_models"]


def make_models(settings: Settings, *, without: Collection[str] = ()) -> dict[str, Model]:
    """Return the configured models by name, but for those `without`. Only classifiers are read already.

    Raises:
        SettingsError: A classifier's file is missing or damaged.
    """
    # Imported here: a local model's process lives in this package too, and needs none of it.
    from ..classification.model import ClassifierModel
    from ..settings import ClassifierSettings, LocalModelSettings
    from .cloud import CloudModel
    from .local.memory import MemoryBudget
    from .local.model import LocalModel

    budget = MemoryBudget(settings.models_memory)
    models: dict[str, Model] = {}
    for spec in settings.models:
        if spec.name in without:
            continue
        if isinstance(spec, LocalModelSettings):
            models[spec.name] = LocalModel(spec, models_dir=settings.models_dir, budget=budget)
        elif isinstance(spec, ClassifierSettings):
            models[spec.name] = ClassifierModel(spec)
        else:
            models[spec.name] = CloudModel(spec)
    return models
