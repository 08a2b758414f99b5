"""`search serve` and `search token` as commands; the service itself is tested in `tests/search/service`."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from indexer.cli import main
from search.__main__ import COMMANDS
from search.service.options import ServeOptions
from search.service.tokens import read_tokens


def search(*arguments: object) -> int:
    try:
        return main("search", "test", COMMANDS, argv=[str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def test_a_token_is_made_and_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("token", "--tokens", tmp_path / "T", "--precision-cap", 25)
    assert search(*common, "--name", "desk") == 0
    token, text = capsys.readouterr().out.splitlines()
    assert "desk" in text
    assert search(*common, "--name", "press", "--json") == 0
    press = json.loads(capsys.readouterr().out)
    tokens = read_tokens(tmp_path / "T")
    for name, made in (("desk", token), ("press", press["token"])):
        asker = tokens.asker(made)
        assert asker is not None
        assert (asker.name, asker.precision_cap) == (name, 25)
    assert search(*common, "--name", "desk") == 2
    assert "there already" in capsys.readouterr().err


def test_serve_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("search.service.server.serve", lambda *names, **options: given.update(options, names=names))
    flags = ["--host", "0.0.0.0", "--no-auth", "--port", 0, "--names", "a,b", "--rate", 5, "--region", "FR"]
    common = ("serve", "--registry", tmp_path / "R", "--checkpoint", "C")
    assert search(*common, *flags, "--max-pixels", 1000, "--device", "cpu", "--workers", 3) == 0
    want = ServeOptions(host="0.0.0.0", no_auth=True, port=0, names=("a", "b"), rate=5, workers=3)
    assert given["options"] == want
    assert given["names"] == (tmp_path / "R", "C")
    assert given["search"].region == "FR"
    assert given["read"].max_pixels == 1000
    assert given["encoder"].device == "cpu"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], "--tokens, which python -m search token writes, or --no-auth"),
        (["--port", "70000"], "--port must be from 0 to 65535"),
        (["--tls-cert", "a"], "--tls-cert and --tls-key go together"),
        (["--tokens", "absent"], "absent: cannot be read"),
    ],
)
def test_what_makes_no_sense_is_refused_at_start(
    tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("serve", "--registry", tmp_path / "R", "--checkpoint", "C", *flags) == 2
    assert message in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("search.service.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert search("serve", "--registry", tmp_path / "R", "--checkpoint", "C") == 2
    assert "pip install 'geosurge[serve]'" in capsys.readouterr().err
