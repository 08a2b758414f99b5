"""What a run is made from: parts that do not go together are refused, by the names of fields."""

from pathlib import Path
from typing import Any

import pytest

from encoder.config import EncoderOptions
from indexer.errors import InputError
from search.runs.job import run
from search.runs.run_spec import RunConfig, RunSpec

PHOTOS = {"photos": "P", "checkpoint": "C"}
FEATURES = {"features": Path("F")}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "either `features`, or `photos` together with `checkpoint`"),
        (FEATURES | PHOTOS, "either `features`"),
        ({"photos": "P"}, "either `features`"),
        (FEATURES | {"checkpoint": "C"}, "either `features`"),
        (FEATURES | {"split": "test"}, "`split` goes with `photos`"),
        (FEATURES | {"encoder": EncoderOptions(segmenter="S")}, "`segmenter` go with `photos`"),
        (FEATURES | {"shard_rows": 0}, "`shard_rows` must be at least 1, not 0"),
        (PHOTOS | {"shard_rows": -3}, "`shard_rows` must be at least 1, not -3"),
        (FEATURES | {"album_table": "T"}, "`album_table` goes with `album`"),
        (PHOTOS | {"album": "trip"}, "`album` goes with `features`"),
        (PHOTOS | {"owner_table": "T"}, "`owner_table` goes with `owner_column`"),
    ],
)
def test_a_spec_whose_parts_do_not_go_together_cannot_be_made(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RunSpec(registry=Path("R"), **parts)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"part": "3/2"}, "`part` 3/2"),
        ({"part": "half"}, "`part` half"),
        ({"top_k": 0}, "`top_k` must be at least 1, not 0"),
        ({"check_recall": 0}, "`check_recall` must be at least 1, not 0"),
    ],
)
def test_what_no_bundle_can_give_is_refused_before_one_is_opened(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RunConfig(**parts)


def test_recall_is_checked_where_all_queries_are() -> None:
    with pytest.raises(InputError, match="`check_recall` goes with `engine` local"):
        RunConfig(engine="ray", check_recall=5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RunConfig(part="1/2"), "`album` goes with .* the whole job"),
        (RunConfig(engine="ray"), "`album` goes with `engine` local"),
    ],
)
def test_an_album_is_of_a_whole_job(config: RunConfig, message: str, tmp_path: Path) -> None:
    spec = RunSpec(registry=tmp_path / "R", features=tmp_path / "F", album="trip")
    with pytest.raises(InputError, match=message):
        run(spec, tmp_path / "O", config=config)
    assert not list(tmp_path.iterdir())
