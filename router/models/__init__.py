"""Models: the one shape of them, and the kinds that a settings file can name."""

from __future__ import annotations

from collections.abc import Collection

from ..settings import LocalModelSettings, Settings
from .base import Model

__all__ = ["Model", "make_models"]


def make_models(settings: Settings, *, without: Collection[str] = ()) -> dict[str, Model]:
    """Return the configured models by name, but for those `without`. Nothing is loaded or connected yet."""
    from .cloud import CloudModel
    from .local import LocalModel

    return {
        spec.name: LocalModel(spec, models_dir=settings.models_dir)
        if isinstance(spec, LocalModelSettings)
        else CloudModel(spec)
        for spec in settings.models
        if spec.name not in without
    }
