"""`make test-wheel`: the built wheel alone, in an environment that has what the wheel asks for and nothing else.

    python -m tests.wheel_check build/wheel/geosurge-0.1.0-py3-none-any.whl

Third-party packages are not installed twice: those that the wheel's metadata asks for (with the extra `cpu`), and those
that these ask for, are linked from the environment that runs this. So a room or a template that is missing from the
wheel is noticed, and so is a package that is imported and not asked for.
"""

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGES = ("indexer", "encoder", "training", "search")
EXTRAS = ("cpu",)
# PYTHONPATH could lead back to the checkout; the working folder could, too.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def check_files(wheel: Path) -> None:
    """The wheel holds all files of the four packages, and no others."""
    there = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    if inside != there:
        raise SystemExit(f"{wheel}: lacks {sorted(there - inside)}, and has {sorted(inside - there)} besides")


def needed(whole: Distribution, extras: set[str]) -> Iterator[Requirement]:
    """What a package asks for here, with these extras of it."""
    for text in whole.requires or ():
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield wanted


def closure(whole: Distribution) -> dict[str, Distribution]:
    """All that a package asks for, and what these ask for; their releases fit what is asked."""
    found: dict[str, Distribution] = {}
    waiting, seen = list(needed(whole, set(EXTRAS))), set[str]()
    while waiting:
        wanted = waiting.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        known = found[wanted.name] = distribution(wanted.name)
        if not wanted.specifier.contains(known.version, prereleases=True):
            raise SystemExit(f"{wanted} is asked for, {known.version} is installed here")
        waiting += needed(known, wanted.extras)
    return found


def environment(home: Path, wheel: Path) -> Path:
    """An environment in `home` with the wheel and what it asks for; returns its Python."""
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", *quiet, wheel], cwd=home, env=CLEAN, check=True
    )
    (site,) = home.glob("lib/python*/site-packages")
    (whole,) = (each for each in distributions(path=[str(site)]) if each.name == "geosurge")
    for package in closure(whole).values():
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            link, target = site / top, Path(str(package.locate_file(top)))
            if target.exists() and not link.exists():
                link.symlink_to(target)
    return python


def write_photos(path: Path) -> None:
    """Forty photos around each of five cities, with vectors that tell the cities apart."""
    rng = np.random.default_rng(0)
    cities = np.array([(48.86, 2.35), (35.68, 139.69), (-33.87, 151.21), (40.71, -74.01), (-1.29, 36.82)])
    city = np.repeat(np.arange(len(cities)), 40)
    places = cities[city] + rng.normal(0, 0.2, (len(city), 2))
    vectors = np.eye(8, dtype=np.float32)[city] + rng.normal(0, 0.1, (len(city), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    columns = {"photo": [f"{row}.jpg" for row in range(len(city))], "lat": places[:, 0], "lng": places[:, 1]}
    pa.parquet.write_table(pa.table(columns | {"embedding": vectors.tolist()}), path)


def main(wheel: Path) -> None:
    """Raises SystemExit, or CalledProcessError, where something is missing."""
    check_files(wheel)
    with tempfile.TemporaryDirectory(prefix="wheel-") as scratch:
        home = Path(scratch)
        python = environment(home / "venv", wheel.absolute())

        def run(*arguments: str | Path) -> None:
            subprocess.run([python, "-I", *arguments], cwd=home, env=CLEAN, stdout=subprocess.DEVNULL, check=True)

        for package in PACKAGES:
            run("-m", package, "--help")
        photos = home / "photos.parquet"
        write_photos(photos)
        built = (
            "--photos",
            photos,
            "--features",
            photos,
            "--tau-max",
            "50",
            "--tau-min",
            "5",
            "--registry",
            home / "R",
        )
        run("-m", "indexer", "build", *built)
        run(ROOT / "tests" / "wheel_query.py", home / "R", photos)
    sys.stdout.write(f"{wheel.name}: every module, every command and a query are fine\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
