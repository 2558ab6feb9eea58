"""Arguments of ``segcore doctor``."""

import argparse


def build_parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        description="Say which operators are compiled for the CPU and for CUDA, which "
        "implementation serves where they are not and why, and what of PyTorch, driver, library "
        "and GPU does not fit."
    )
