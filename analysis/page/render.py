"""The page as one HTML file: template, style, scripts and data in one text."""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files

from analysis.formats import shown
from analysis.page.content import headline, sections, stopping, trials
from analysis.page.data import data
from analysis.results import Results
from analysis.volumes import common_objective


def render(studies: Sequence[Results]) -> str:
    """Return the page. It fetches nothing: its policy allows only the scripts that are in it."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    room = files("analysis.page")
    plotly = files("plotly") / "package_data" / "plotly.min.js"
    scripts = [_closed(script.read_text(encoding="utf-8")) for script in (plotly, room / "page.js")]
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters["cell"] = lambda value, name, formats: shown(name, value, formats)
    stopped = stopping(studies)
    rungs = {} if stopped is None else {str(name): stopped[name].tolist() for name in stopped}
    content = json.dumps(data(studies, rungs), separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return page.from_string((room / "page.html").read_text(encoding="utf-8")).render(
        title=", ".join(each.name for each in studies),
        studies=studies,
        objective=common_objective(studies),
        headlines=[headline(each) for each in studies],
        trials=trials(studies),
        sections=sections(studies, stopped),
        style=Markup((room / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        hashes=" ".join(_hash(script) for script in scripts),
        data=Markup(_escaped(content)),
    )


def _closed(script: str) -> str:
    """Return a script that cannot end its element."""
    return script.replace("</script", "<\\/script")


def _escaped(content: str) -> str:
    """Return JSON in which no text can end its element or begin another."""
    return content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
