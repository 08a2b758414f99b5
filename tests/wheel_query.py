"""What `tests.wheel_check` runs in the wheel's environment: every module, every command's help, and one query."""

import contextlib
import importlib
import io
import pkgutil
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow.parquet

PACKAGES = ("indexer", "encoder", "training", "search")
NEED_EXTRAS = {
    *("indexer.cells.export", "indexer.earth.polygons", "search.answers.posterior_map", "search.answers.region_shapes"),
    "search.runs.ray_run",
    *(
        f"search.service.{name}"
        for name in (
            *(
                "app",
                "connection",
                "doorkeeper",
                "metrics",
                "page",
                "routes",
                "server",
                "service",
                "uploads",
                "vector_bodies",
            ),
        )
    ),
}


def import_all() -> None:
    """Import every module from this environment, but those that need an extra."""
    lacking = []
    for package in PACKAGES:
        home = importlib.import_module(package)
        assert home.__file__ is not None
        assert Path(home.__file__).is_relative_to(sys.prefix), home.__file__
        for module in pkgutil.walk_packages(home.__path__, f"{package}."):
            try:
                importlib.import_module(module.name)
            except ImportError:
                lacking.append(module.name)
    assert set(lacking) == NEED_EXTRAS, lacking
    for file in ("static/service.js", "static/service.css", "templates/service.html"):
        assert resources.files("search.service").joinpath(file).is_file(), file


def ask_for_help() -> None:
    """Print the help of every command, for nobody to read."""
    from indexer.cli import command_words, main

    for package in PACKAGES:
        commands = importlib.import_module(f"{package}.__main__").COMMANDS
        for words in command_words(commands):
            with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
                main(package, "", commands, argv=[*words, "--help"])
            assert "--config" in text.getvalue(), f"{package} {words}"


def query(registry: Path, photos: Path) -> None:
    """Photos are located within a few hundred kilometres of where they are."""
    from search import Locator

    rows = pyarrow.parquet.read_table(photos).to_pydict()
    answers = Locator.open(registry).locate_vectors(np.array(rows["embedding"], np.float32))
    assert len(answers) == len(rows["photo"])
    for answer, lat_deg, lng_deg in zip(answers, rows["lat"], rows["lng"], strict=True):
        assert abs(answer.lat_deg - lat_deg) < 3, answer
        assert abs(answer.lng_deg - lng_deg) < 3, answer


if __name__ == "__main__":
    ask_for_help()
    import_all()
    query(Path(sys.argv[1]), Path(sys.argv[2]))
