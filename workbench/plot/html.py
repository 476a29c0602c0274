"""HTML from templates: pieces that show themselves in a notebook, and the policy of pages that fetch nothing.

Templates lie in `templates/` beside the code that fills them; whatever is put into them is escaped.
"""

import base64
import hashlib
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


class Html(str):
    """A piece of HTML that shows itself in a notebook, and that a template takes as it is."""

    def _repr_html_(self) -> str:
        return str(self)

    def __html__(self) -> str:
        return str(self)


@cache
def environment(package: str) -> Environment:
    """The templates of one package, such as "workbench.reporting"."""
    made = Environment(
        loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["breaks"] = _breaks
    return made


def render(package: str, template: str, **values: Any) -> Html:
    """A template of a package, named without `.html.j2`, filled with the values that it asks for."""
    return Html(environment(package).get_template(f"{template}.html.j2").render(values))


def policy(*scripts: str, sources: str = "") -> str:
    """A content security policy: nothing is fetched, and only these scripts and those from `sources` run."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join([*(f"'sha256-{digest}'" for digest in digests), *sources.split()]) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def json_block(json: str) -> Markup:
    """JSON that can stand inside a script element."""
    return Markup(json.replace("<", "\\u003c"))


def _breaks(text: str) -> Markup:
    """Escaped text with its line breaks shown and kept."""
    return Markup("\u21b5<br>").join(text.split("\n"))
