"""Arguments of ``segcore models``, and its work: neither needs PyTorch."""

import argparse

from segcore.errors import ConfigError
from segcore.text import printable
from segcore.zoo import PREFIX, PublishedModel, list_models, published_models


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="List published weights that can be loaded by name, with the figures that "
        "their authors state in percent; of a single one, all that is known.",
        epilog=f"segcore predict --weights {PREFIX}NAME photo.jpg --output DIR downloads them at "
        "the first use. The page is docs/model_zoo.md.",
    )
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        metavar="PATTERN",
        help="a part of the name between slashes, or a whole name; * stands for any text",
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Print the models.

    Args:
        args: of :func:`build_parser`.
    """
    models = [published_models()[name] for name in list_models(args.pattern)]
    if not models:
        raise ConfigError(
            f"{printable(args.pattern)}: no published weights have such a name: `segcore models` "
            "lists all"
        )
    print(details(models[0]) if len(models) == 1 else table(models))


def table(models: list[PublishedModel]) -> str:
    """Return a line for each model."""
    width = max(len(model.name) for model in models)
    return "\n".join(f"{model.name:<{width}}  {figures(model)}".rstrip() for model in models)


def details(model: PublishedModel) -> str:
    """Return what is known about a model, a line each."""
    known = {
        "name": model.name,
        "backbone": model.backbone,
        "trained for": model.schedule,
        "published": figures(model),
        "configuration": model.config,
        "licence": model.licence,
        "address": model.url,
    }
    return "\n".join(f"{title:<13}  {text}" for title, text in known.items() if text)


def figures(model: PublishedModel) -> str:
    return ", ".join(f"{metric} {value}" for metric, value in model.figures.items())
