"""Pages of one file about an evaluation, two of them, or data: ``docs/report.md``."""
