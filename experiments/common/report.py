"""Self-contained HTML files about runs, from jinja2 templates beside this file."""

import base64
import os
from pathlib import Path
from typing import Any, NamedTuple

import jinja2


class Picture(NamedTuple):
    """A figure's file name without ending, and its caption."""

    name: str
    caption: str


def write(folder: Path, template: str, pictures: list[Picture], **values: Any) -> None:
    """Fill ``template``, with ``folder/figures/NAME.png`` embedded, as ``folder/report.html``."""
    images = [image(folder / "figures", picture) for picture in pictures]
    render(folder, template, pictures=images, **values)


def image(folder: Path, picture: Picture) -> dict[str, str]:
    """The name, caption and base64-encoded bytes of ``folder/NAME.png``."""
    data = base64.b64encode((folder / f"{picture.name}.png").read_bytes()).decode()
    return {"name": picture.name, "caption": picture.caption, "data": data}


def render(folder: Path, template: str, **values: Any) -> None:
    """Fill ``template`` and write it as ``folder/report.html`` in one step."""
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
