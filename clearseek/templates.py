"""Documents from templates: their words lie in a package's ``templates``, where a writer finds and changes them.

A name that has no value is an error, never an empty place. A page of HTML escapes every value that it prints; a
Markdown document names the filter that keeps a value in its cell. Jinja loads when the first document is written.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any


def render(
    package: str, name: str, /, *filters: Callable[..., str], shown: Callable[[str], str] = str, **values: Any
) -> str:
    """Text of the template `name`, such as ``model-card.md.jinja``.

    Args:
        package: Its package, such as ``clearseek.release``.
        name: Its file; ``.html.jinja`` turns escaping on.
        filters: Functions that the template may call by their names, beside ``commas``: ``{{ 1234 | commas }}``.
        shown: Applied to every value that a page of HTML prints, before it is escaped.
        values: Values of the names in the template.

    Raises:
        jinja2.UndefinedError: the template names something that is not among `values`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def escaped(value: Any) -> Any:
        return value if isinstance(value, Markup) else Markup(escape(shown(str(value))))

    html = name.endswith(".html.jinja")
    environment = Environment(
        loader=PackageLoader(package), undefined=StrictUndefined, autoescape=html, finalize=escaped if html else None,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"commas": "{:,}".format, **{each.__name__: each for each in filters}}
    return environment.get_template(name).render(values)
