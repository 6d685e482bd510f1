"""From templates to pages, and how pages write names and sizes. Knows no videos."""

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from batch.version import __version__


def shown_name(name: str) -> str:
    """The name of a file, which need not be UTF-8, for people."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def in_bytes(count: float) -> str:
    """A size as a person says it, in units of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return (
                f"{count:.0f} {unit}"
                if unit == "bytes" or count >= 99.95
                else f"{count:.1f} {unit}"
            )
        count /= 1000
    return f"{count:,.1f} TB"


def digest_of(*parts: str) -> str:
    """Of what a page shows and of how pages are made: another one means another page."""
    digest = hashlib.sha256(__version__.encode())
    for file in sorted((resources.files("batch.report") / "templates").iterdir(), key=str):
        digest.update(file.read_bytes())
    digest.update("\n".join(parts).encode())
    return digest.hexdigest()[:32]


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("batch.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _file(name: str) -> Markup:
    """A file of ours that goes into pages as it is."""
    text = (resources.files("batch.report") / "templates" / name).read_text(encoding="utf-8")
    return Markup(text)


def render(template: str, **values: Any) -> str:
    """A page of a template; what a browser could not show is replaced."""
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _environment().get_template(template)
    text = page.render(
        version=__version__,
        style=_file("style.css"),
        script=script,
        script_digest=f"sha256-{digest}",
        **values,
    )
    return text.encode(errors="replace").decode()
