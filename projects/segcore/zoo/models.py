"""The published models of the installed systems."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from segcore.config_names import CONFIGS_FOLDER
from segcore.errors import ConfigError
from segcore.registry import NamedRegistry, project_entry_points

FILE_NAME = "zoo.json"


@dataclass(frozen=True)
class PublishedModel:
    """Published weights and the configuration that they belong to.

    Attributes:
        name: ``<system>/<data set>/<task>/<variant>``.
        url: address of the file, as its authors give it.
        licence: of the weights.
        config: path in the folder ``configs``; absolute if it is in the package of the system.
        backbone: as the authors call it.
        schedule: length of the training, where the authors state it.
        figures: published results on the validation split, by metric.
        options: KEY VALUE pairs that make the configuration one for prediction without the data.
        refusal: why the file does not fit the configuration; "" if it does.
    """

    name: str
    url: str
    licence: str
    config: str
    backbone: str
    schedule: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    options: Sequence[str] = ()
    refusal: str = ""

    @property
    def system(self) -> str:
        return self.name.split("/")[0]

    @property
    def dataset(self) -> str:
        return self.name.split("/")[1]

    @property
    def task(self) -> str:
        return self.name.split("/")[2]

    @property
    def config_file(self) -> Path:
        return CONFIGS_FOLDER / self.config

    @property
    def fault(self) -> str:
        """Why the name cannot be loaded; "" if it can."""
        if self.refusal or self.config_file.is_file():
            return self.refusal
        return f"there is no configuration {self.config} here"


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of published weights, in alphabetical order.

    ``segcore.load`` takes them, and ``segcore.Predictor`` those of videos and classifiers too.

    Args:
        pattern: a part of the name, such as "panoptic" or "swin-*", or a pattern of the whole
            name, such as "mask2former/coco/*"; "*" stands for any text.
    """
    models = published_models()
    return sorted(name for name in models if _matches(name, pattern) and not models[name].fault)


def find_model(name: str) -> PublishedModel:
    """Return the model of a name that a user wrote.

    Raises:
        ConfigError: there is none, naming the closest ones; or it cannot be loaded, saying why.
    """
    model = published_models().find(name)
    if model.fault:
        raise ConfigError(f"{name} cannot be loaded: {model.fault}")
    return model


@cache
def published_models() -> NamedRegistry[PublishedModel]:
    """Return all published models by name, also those that cannot be loaded."""
    models: NamedRegistry[PublishedModel] = NamedRegistry("published model")
    for entry in project_entry_points():
        package = entry.module.partition(".")[0]
        for folder in getattr(find_spec(package), "submodule_search_locations", None) or ():
            for model in _read(Path(folder)):
                models.register(model.name, model)
    return models


def _read(package: Path) -> list[PublishedModel]:
    path = package / FILE_NAME
    if not path.is_file():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    models = []
    for name, row in content["models"].items():
        in_package = package / row["config"]
        config = str(in_package) if in_package.is_file() else row["config"]
        settings = {**row, "licence": content["licence"], "config": config}
        models.append(PublishedModel(f"{package.name}/{name}", **settings))
    return models


def _matches(name: str, pattern: str) -> bool:
    return any(fnmatchcase(part, pattern) for part in (name, *name.split("/")))
