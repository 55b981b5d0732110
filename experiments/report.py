"""One self-contained HTML file about a run."""

import base64
from pathlib import Path
from typing import Any, NamedTuple

import jinja2


class Picture(NamedTuple):
    """A figure's file name without ending, and what it shows."""

    name: str
    caption: str


def write(folder: Path, template: str, pictures: list[Picture], **values: Any) -> None:
    """Fill ``template``, a file beside this one, and write it as ``folder/report.html``.

    The pictures are ``folder/figures/NAME.png``; they go into the file itself.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    images = [
        {
            "name": p.name,
            "caption": p.caption,
            "data": _encode(folder / "figures" / f"{p.name}.png"),
        }
        for p in pictures
    ]
    html = environment.get_template(template).render(pictures=images, **values)
    (folder / "report.html").write_text(html, encoding="utf-8")


def _encode(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
