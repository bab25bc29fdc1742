"""HTML reports and tables, made from plain data: summaries, curves and reach matrices.

Nothing of the core is needed to draw a report, so old runs can be reported without their model.
matplotlib and Jinja2 (the ``report`` extra) are imported by the first page that is written.
"""

from localgrad.report.analysis_page import write_analysis
from localgrad.report.pages import write_compare, write_run
from localgrad.report.tables import markdown_table

__all__ = ["markdown_table", "write_analysis", "write_compare", "write_run"]
