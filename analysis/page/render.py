"""The page as one HTML file: template, style, script, data and Plotly in one text."""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files

from analysis.formats import shown
from analysis.page.content import data, headline, sections, widths
from analysis.results import Results
from kdq.errors import UserError


def render(studies: Sequence[Results]) -> str:
    """Return the page. It fetches nothing: its policy allows only the scripts that are in it."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    room = files("analysis.page")
    scripts = [_plotly(), (room / "page.js").read_text()]
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters["cell"] = lambda value, name, formats: shown(name, value, formats)
    content = json.dumps({**data(studies), "widths": widths(studies)}, separators=(",", ":"), allow_nan=False)
    return page.from_string((room / "page.html").read_text()).render(
        title=", ".join(each.name for each in studies),
        studies=studies,
        headlines=[headline(each) for each in studies],
        sections=sections(studies),
        style=Markup((room / "page.css").read_text()),
        scripts=[Markup(_closed(script)) for script in scripts],
        hashes=" ".join(_hash(_closed(script)) for script in scripts),
        data=Markup(_escaped(content)),
    )


def _plotly() -> str:
    try:
        return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    except ModuleNotFoundError:
        raise UserError("a report needs plotly: pip install plotly") from None


def _closed(script: str) -> str:
    """Return a script that cannot end its element."""
    return script.replace("</script", "<\\/script")


def _escaped(content: str) -> str:
    """Return JSON in which no text can end its element or begin another."""
    return content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
