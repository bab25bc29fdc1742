"""One HTML file out of a template: it loads nothing and runs nothing."""

from __future__ import annotations

from localgrad.report.tables import NOTHING

MANY = 30  # units from which a matrix needs more room


def render(template: str, **values: object) -> str:
    """Fill a template; what is no markup is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from localgrad.report.palette import variables

    environment = Environment(
        loader=PackageLoader("localgrad.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(
        light=variables(0), dark=variables(1), nothing=NOTHING, **values
    )
    return page.rstrip("\n") + "\n"
