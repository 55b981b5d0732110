"""Self-contained HTML files about runs, from jinja2 templates."""

import base64
from pathlib import Path
from typing import Any

import jinja2

from experiments.common.run_folder import write_text


def image(folder: Path, name: str, caption: str) -> dict[str, str]:
    """The name, caption and base64-encoded bytes of ``folder/NAME.png``."""
    data = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
    return {"name": name, "caption": caption, "data": data}


def render(folder: Path, template: str | Path, **values: Any) -> None:
    """Fill ``template``, beside this file or a path, as ``folder/report.html`` in one step."""
    page = jinja2.Template(
        (Path(__file__).parent / template).read_text(encoding="utf-8"),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    write_text(folder / "report.html", page.render(**values))
