"""Arguments of ``segcore compare``."""

import argparse


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Put the reports of two evaluations side by side in one page.",
        epilog="The page is docs/report.md.",
    )
    for name in ("a", "b"):
        parser.add_argument(
            name, metavar=name.upper(), help="output folder with a report.html, or such a file"
        )
    parser.add_argument(
        "--output", default="compare.html", metavar="FILE", help="default: %(default)s"
    )
    return parser
