"""One gateway after another in the same process: the settings were read again.

A gateway never changes its settings. Other settings make another gateway, which takes over what has a life of its own:
the ledger, what was counted, alarms, the cache with its answers, and every model whose settings are the same (a local
one stays in memory). Requests under way end where they began; what nobody uses any more is closed then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from .errors import SettingsError, SmallfirstError
from .settings import AnyModelSettings, ClassifierSettings, Settings

if TYPE_CHECKING:
    from .assembly import Parts
    from .gateway import Gateway
    from .models.base import Model

# What is fixed for the life of the process, by its path in the settings.
NEEDS_RESTART = (
    "server.host",
    "server.port",
    "server.key_store",
    "server.workers",
    "server.grace",
    "limits.url",
    "limits.timeout",
    "limits.when_down",
    "limits.replicas",
    "ledger",
    "log.format",
    "models_dir",
    "models_memory",
    "responses",
    "telemetry",
)
# Of a model's settings, those that billing and routing read, and not the model.
_NOT_THE_MODELS = {"ability", "cost", "price"}
# Of the cache's settings, those that another store is opened for.
_STORE = ("enabled", "url", "max_bytes", "timeout")


@dataclass(frozen=True, slots=True)
class Change:
    """What other settings change; can be sent from one process to another.

    Attributes:
        changed: Paths of what is different and in force, e.g. `policy`, `cache.ttl`; models and policies as a whole.
        needs_restart: Paths of what is different and needs a restart; it is as it was until then.
        models_kept, models_added, models_changed, models_removed: Names.
    """

    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]
    models_kept: tuple[str, ...]
    models_added: tuple[str, ...]
    models_changed: tuple[str, ...]
    models_removed: tuple[str, ...]


def change_of(before: Settings, after: Settings) -> tuple[Settings, Change]:
    """Return those of other settings that can be in force without a restart, and what they change. Pure."""
    restart = tuple(path for path in NEEDS_RESTART if _at(before, path) != _at(after, path))
    effective = reduce(lambda settings, path: _with(settings, path, _at(before, path)), restart, after)
    old = {model.name: model for model in before.models}
    new = {model.name: model for model in effective.models}
    both = [name for name in new if name in old]
    return effective, Change(
        changed=tuple(_differing(before, effective)),
        needs_restart=tuple(leaf for path in restart for leaf in _leaves(before, after, path)),
        models_kept=tuple(name for name in both if _runs_the_same(old[name], new[name])),
        models_added=tuple(name for name in new if name not in old),
        models_changed=tuple(name for name in both if not _runs_the_same(old[name], new[name])),
        models_removed=tuple(name for name in old if name not in new),
    )


def same_store(before: Settings, after: Settings) -> bool:
    """Whether the cache's store can go on."""
    return all(getattr(before.cache, name) == getattr(after.cache, name) for name in _STORE)


async def succeed(before: Gateway, settings: Settings, follow: Callable[[Settings], None]) -> Gateway:
    """Return the gateway that follows, ready to serve; the one before goes on as it is until then.

    Args:
        before: Serves now.
        settings: Those that are to be in force; see `change_of`.
        follow: Tells others of the settings; the last that may fail. Called in a thread.

    Raises:
        SettingsError: It cannot be made, or a new model cannot be loaded. Nothing has changed.
    """
    # Reads calibrations, perhaps a classifier: in a thread, as others are served meanwhile.
    after = await asyncio.to_thread(type(before), settings, predecessor=before)
    new = {name: model for name, model in after.models.items() if before.models.get(name) is not model}
    try:
        await asyncio.gather(*(_start(name, model) for name, model in new.items()))
        await asyncio.to_thread(follow, settings)
    except BaseException:
        await _close(new.values())
        raise
    after.take_over(before, new)
    return after


async def _start(name: str, model: Model) -> None:
    try:
        await model.start()
    except SmallfirstError as exc:
        raise SettingsError(f"models: '{name}' cannot be used: {exc}") from exc


async def retire(gateway: Gateway, living: Sequence[Gateway]) -> None:
    """Close what a gateway has and none of the living ones uses. Call it once its last request has ended."""
    await gateway.shadow.settled()
    in_use = {id(model) for other in living for model in other.models.values()}
    await _close([model for model in gateway.own_models.values() if id(model) not in in_use])
    reuse = gateway.reuse
    if reuse is not None and all(other.reuse is not reuse for other in living):
        await reuse.settled()
        if all(other.cache is not gateway.cache for other in living):
            await reuse.aclose()


async def _close(models: Iterable[Model]) -> None:
    await asyncio.gather(*(model.aclose() for model in models))


def models_still_good(before: Parts, settings: Settings) -> Mapping[str, Model]:
    """Return a gateway's own models whose settings are the same in others."""
    known = {model.name: model for model in before.settings.models}
    return {
        model.name: before.own_models[model.name]
        for model in settings.models
        if model.name in before.own_models and _runs_the_same(known[model.name], model)
    }


def _runs_the_same(before: AnyModelSettings, after: AnyModelSettings) -> bool:
    """Whether a model can go on. A classifier's file is read again: it may have been trained anew."""
    if isinstance(after, ClassifierSettings) or type(before) is not type(after):
        return False
    return before.model_dump(exclude=_NOT_THE_MODELS) == after.model_dump(exclude=_NOT_THE_MODELS)


def _at(settings: Settings, path: str) -> Any:
    return reduce(getattr, path.split("."), settings)


def _with(settings: Settings, path: str, value: Any) -> Settings:
    name, _, field = path.partition(".")
    if field:
        value = getattr(settings, name).model_copy(update={field: value})
    return settings.model_copy(update={name: value})


def _leaves(before: Settings, after: Settings, path: str) -> list[str]:
    old, new = _at(before, path), _at(after, path)
    fields = getattr(type(old), "model_fields", None)
    if fields is None:
        return [path]
    return [f"{path}.{name}" for name in fields if getattr(old, name) != getattr(new, name)]


def _differing(before: Settings, after: Settings) -> list[str]:
    names = (name for name in type(before).model_fields if getattr(before, name) != getattr(after, name))
    return [leaf for name in names for leaf in _leaves(before, after, name)]
