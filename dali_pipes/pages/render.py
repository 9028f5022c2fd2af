"""Templates to pages. Whatever is put into one is text, unless it is markup made here."""

import base64
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dali_pipes.decoding.opening import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOOK = Path(__file__).parent

# Of drawings: told apart by colour-blind eyes, legible on the light and on the dark ground.
BLUE, ORANGE, GREY = "#2b7bd6", "#d9730d", "#7f8a96"


def page(template: Path, title: str, script: str = "", **facts: Any) -> str:
    """The HTML of a template that extends base.html: one file, styles and pictures inside.

    `facts` are what the template names; what is shown of them is escaped and on one line, `Markup`
    is as it is. `script` runs on the page; the page forbids every other, and every request.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, _LOOK]),
        autoescape=True,
        finalize=_finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = f"\n{script}" if script else ""
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    return environment.get_template(template.name).render(
        title=title,
        look=Markup((_LOOK / "look.css").read_text(encoding="utf-8")),
        script=Markup(script),
        scripts=f"'sha256-{digest}'" if script else "'none'",
        **facts,
    )


def _finalized(value: Any) -> str:
    """Names of files may hold anything: line breaks, control characters, bytes not in UTF-8."""
    return value if isinstance(value, Markup) else printable(str(value))


def data_url(content: bytes, kind: str) -> str:
    """The address of `content` inside a page; `kind` is its media type, such as image/jpeg."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def svg(figure: "Figure") -> Markup:
    """A figure of matplotlib inside a page: no ground of its own, its black in the page's ink.

    Of the names that drawings refer to, those on one page share names of glyphs only, whose
    outlines are the same in each.
    """
    buffer = StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    _, _, drawing = buffer.getvalue().partition("<svg")  # without the XML declaration
    # Black text says no colour at all.
    return Markup('<svg fill="currentColor"' + drawing.replace("#000000", "currentColor"))
