"""Renders a report as one HTML page without scripts."""

import datetime

import jinja2

from simclr_jax.reporting.sections import all_sections
from simclr_jax.workdir.runs import SavedRun

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("simclr_jax.reporting"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
)


def _shade(percent: float, right: bool) -> str:
    """How strong the colour of a cell is: confusions are rarer than right answers."""
    return f"{min(percent / 100 * (1 if right else 2.5), 0.9):.2f}"


def render(runs: list[SavedRun], title: str) -> str:
    """The whole document."""
    unfinished = sum(run.results is None for run in runs)
    return TEMPLATES.get_template("report.html.j2").render(
        title=title,
        state=f"{len(runs)} runs" + (f", {unfinished} of them not done" if unfinished else ""),
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        sections=all_sections(runs),
        shade=_shade,
    )
