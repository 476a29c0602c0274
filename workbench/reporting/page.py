"""Self-contained HTML pages that need no network, with a content security policy for their own scripts only.

plotly.js is written into a page once; figures lie beside it as JSON.
"""

from functools import cache
from itertools import count
from typing import Any

from markupsafe import Markup

from workbench.plot.html import Html, environment, policy, render

PACKAGE = "workbench.reporting"


def document(template: str, title: str, *, description: str = "", plots: bool = True, **values: Any) -> Html:
    """A page with style, plotly.js (for pages with `plots`) and the script that draws the figures.

    The template, such as "report", stands in the body, and is filled with the other values.
    """
    scripts = _scripts() if plots else ()
    numbers = count(1)
    return render(
        PACKAGE,
        template,
        title=title,
        description=description,
        style=Markup(_asset("page.css")),
        scripts=[Markup(script) for script in scripts],
        policy=policy(*scripts),
        number=lambda: next(numbers),
        **values,
    )


@cache
def _scripts() -> tuple[str, str]:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs(), _asset("page.js")


@cache
def _asset(name: str) -> str:
    found = environment(PACKAGE)
    assert found.loader is not None
    return found.loader.get_source(found, name)[0]
