"""``segcore serve``: a local page to segment photos."""
