"""The report: a run folder -> one self-contained HTML page. Reads files only: no network, no model, nothing recomputed.

A section is a module of `sections/` with one function `section(run) -> Section | None`, pure, and a template of the
same name. To add a kind of run: write its sections, give it a line in `page.KINDS` (what plan.json calls it, the schema
version, how the folder is opened, its sections in the order they are read), and a test in tests/test_report.py.
"""
