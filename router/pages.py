"""Pages: HTML from a template that a package carries, the same way everywhere; and the shell that pages may extend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_SHELL = PackageLoader("smallfirst.router", "templates")


class Pages:
    """Renders the templates of a package. Values are escaped; a value that a template asks for must be there.

    A template may extend `shell.html`, which has the styles, the skip link and the landmarks.

    Args:
        package: Whose folder `templates` has the templates.
        filters: By name, what shows values as text.
    """

    def __init__(self, package: str, filters: Mapping[str, Callable[..., str]]) -> None:
        self._environment = Environment(
            loader=ChoiceLoader([PackageLoader(package, "templates"), _SHELL]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(filters)

    def render(self, template: str, **values: Any) -> str:
        """Return a page. `made`, the time of day, is among the values."""
        return self._environment.get_template(template).render(made=time_of_day(), **values)

    def blocks(self, template: str, names: Sequence[str], **values: Any) -> dict[str, Markup]:
        """Return some blocks of a template by their names; nothing else of it is rendered."""
        found = self._environment.get_template(template)
        context = found.new_context(values)
        return {name: Markup("".join(found.blocks[name](context))) for name in names}  # noqa: S704 - made by the template, which escapes


def render_page(package: str, template: str, filters: Mapping[str, Callable[..., str]], **values: Any) -> str:
    """Return one page; arguments as of `Pages` and its `render`."""
    return Pages(package, filters).render(template, **values)


def time_of_day() -> str:
    """Return what time it is, for a reader."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
