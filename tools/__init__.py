"""Programs for the work on this repository; each is run from its root, none is installed."""
