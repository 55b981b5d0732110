"""Self-contained HTML files about runs."""

import base64
import os
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
    images = [image(folder / "figures", picture) for picture in pictures]
    render(folder, template, pictures=images, **values)


def image(folder: Path, picture: Picture) -> dict[str, str]:
    """What a template needs of ``folder/NAME.png``, its bytes included."""
    data = base64.b64encode((folder / f"{picture.name}.png").read_bytes()).decode()
    return {"name": picture.name, "caption": picture.caption, "data": data}


def render(folder: Path, template: str, **values: Any) -> None:
    """Fill ``template`` and write it as ``folder/report.html``."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template(template).render(**values)
    beside = folder / "report.html.new"
    beside.write_text(html, encoding="utf-8")
    os.replace(beside, folder / "report.html")
