"""Models: the one shape of them, and the kinds that a settings file can name."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..settings import Settings
    from .base import Model
    from .local.memory import MemoryBudget
    from .local.sharing import Engines

__all__ = ["make_models"]


def make_models(
    settings: Settings,
    *,
    without: Collection[str] = (),
    budget: MemoryBudget | None = None,
    engines: Engines | None = None,
) -> dict[str, Model]:
    """Return the configured models by name, but for those `without`. Only classifiers are read already.

    Args:
        settings: Which models, and where their files are kept.
        without: Names of those that are not made.
        budget: Shared with local models that there are already; default: one of the settings.
        engines: Where local models' processes come from; default: each starts its own.

    Raises:
        SettingsError: A classifier's file is missing or damaged.
    """
    # Imported here: a local model's process lives in this package too, and needs none of it.
    from ..classification.model import ClassifierModel
    from ..settings import ClassifierSettings, LocalModelSettings
    from .cloud import CloudModel
    from .local.memory import MemoryBudget as Budget
    from .local.model import LocalModel

    budget = budget or Budget(settings.models_memory)
    models: dict[str, Model] = {}
    for spec in settings.models:
        if spec.name in without:
            continue
        if isinstance(spec, LocalModelSettings):
            models[spec.name] = LocalModel(
                spec, models_dir=settings.models_dir, budget=budget, engines=engines
            )
        elif isinstance(spec, ClassifierSettings):
            models[spec.name] = ClassifierModel(spec)
        else:
            models[spec.name] = CloudModel(spec)
    return models
