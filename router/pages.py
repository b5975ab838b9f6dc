"""Pages: HTML from a template that a package carries, the same way everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_page(package: str, template: str, filters: Mapping[str, Callable[..., str]], **values: Any) -> str:
    """Return a page. Values are escaped, and one that the template asks for and is not there is an error.

    Args:
        package: Whose folder `templates` has the template.
        template: Its file name.
        filters: By name, what shows values as text.
        values: What the template is filled with; `made`, the time of day, is there besides.
    """
    environment = Environment(
        loader=PackageLoader(package, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return environment.get_template(template).render(made=made, **values)
