"""``make gpu-check``: what this machine's GPU proves about the project, as one Markdown file.

Each part is a module with a function ``run`` that yields checks and tables (``results.py``), and a
docstring that says what they are. A part runs in a process of its own with a limit of time
(``runner.py``), so that one that crashes or hangs takes nothing else with it; what it needs and the
machine has not is the reason why it is skipped. ``markdown.py`` writes the file.
"""
