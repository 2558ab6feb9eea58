"""Arguments of ``segcore merge``."""

import argparse


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Join the results of the shards of segcore predict.",
        epilog="Files are hard links where the file system has them, else copies. The page is "
        "docs/demo.md.",
    )
    parser.add_argument("folders", nargs="+", metavar="DIR", help="--output of each shard")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--partial", action="store_true", help="join what is there, if shards are missing"
    )
    return parser
