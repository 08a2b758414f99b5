"""The log of requests: nothing without it, a whole line for each command with it."""

import json
import os
from pathlib import Path

import pytest

from indexer.cli import main
from indexer.errors import InputError
from search.__main__ import COMMANDS
from search.runs.audit_log import check_log, log_request


def search(*arguments: object) -> int:
    return main("search", "test", COMMANDS, argv=[str(each) for each in arguments])


def test_commands_add_lines_where_a_log_is_asked_for(world: Path, tmp_path: Path) -> None:
    log, common = tmp_path / "log.jsonl", ("--registry", world / "R", "--checkpoint", world / "C")
    assert search("query", *common, world / "0.png") == 0
    assert not log.exists()
    assert search("query", *common, world / "0.png", world / "1.png", "--audit-log", log) == 0
    run = ("run", *common, "--photos", world / "photos.csv", "--out", tmp_path / "O", "--audit-log", log)
    run = (*run, "--mode", "beam")
    assert search(*run) == 0
    first, second = (json.loads(line) for line in log.read_text().splitlines())
    assert (first["command"], first["photos"]) == ("query", [str(world / "0.png"), str(world / "1.png")])
    assert (second["command"], second["photos"], second["out"]) == (
        "run",
        str(world / "photos.csv"),
        str(tmp_path / "O"),
    )
    assert {"at", "user"} <= set(first)
    assert ("mode" in first, second["mode"], second["crops"]) == (False, "beam", "one")
    assert not {"lat", "lng", "token"} & set(first)


def test_a_user_without_a_name_is_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", unknown)
    log_request(tmp_path / "log", "query", photos=[])
    assert json.loads((tmp_path / "log").read_text())["user"] == f"uid {os.getuid()}"


def test_credentials_are_starred_out(tmp_path: Path) -> None:
    log_request(tmp_path / "log", "run", photos="https://me:secret@host/p.csv", more=["s3://b/x?token=secret"])
    text = (tmp_path / "log").read_text()
    assert "secret" not in text
    assert "***@host/p.csv" in text


def test_nothing_is_answered_where_the_log_cannot_be_written(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--registry", world / "R", "--checkpoint", world / "C")
    log = tmp_path / "absent" / "log.jsonl"
    assert search("run", *common, "--photos", world / "photos.csv", "--out", tmp_path / "O", "--audit-log", log) == 2
    assert "log.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "O").exists()


def test_a_log_that_could_not_be_written_is_told_before_and_nothing_is_added(tmp_path: Path) -> None:
    check_log(None)
    check_log(tmp_path / "log.jsonl")
    assert (tmp_path / "log.jsonl").read_bytes() == b""
    with pytest.raises(InputError):
        check_log(tmp_path / "absent" / "log.jsonl")


def test_a_service_says_who_asked(tmp_path: Path) -> None:
    log_request(tmp_path / "log.jsonl", "locate", user="desk", photos=["a.jpg"])
    assert json.loads((tmp_path / "log.jsonl").read_text())["user"] == "desk"
