"""HTML pages that need nothing else: style and pictures inside, no script, nothing fetched.

Templates are files beside this module, `page.html` the frame of all pages. Whatever is put into one is escaped.
"""

import base64
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render(template: str, *, package: str = "search.pages", **values: Any) -> str:
    """A page from a template. package: that has it in its folder `templates`."""
    return _templates(package).get_template(template).render(**values)


def data_uri(picture: bytes, media_type: str = "image/png") -> str:
    """A picture as a page can hold it; the filter `data_uri` of templates."""
    return f"data:{media_type};base64,{base64.b64encode(picture).decode()}"


@cache
def _templates(package: str) -> Environment:
    loaders = [PackageLoader(name) for name in dict.fromkeys((package, "search.pages"))]
    templates = Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters["data_uri"] = data_uri
    return templates
