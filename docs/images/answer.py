"""`python docs/images/answer.py`, after `make demo`: the picture at the top of the README, as the product draws it.

In: the demo's folder. Out: `answer.png` beside this file: a test tile, and the map that `query --html` draws of its
answer.
"""

import base64
import io
import re
import sys
import tempfile
from pathlib import Path

from PIL import Image

from indexer.cli import main
from search.__main__ import COMMANDS

TILE = "00000"  # of the test split
EDGE = 260  # of the tile in the picture, in pixels


def draw(demo: Path, out: Path) -> None:
    """Ask where the tile was taken, and put it beside the map of the answer."""
    world = demo / "world"
    known = ["--registry", demo / "registry", "--checkpoint", demo / "run/checkpoint"]
    seen = ["--class-maps", world / f"maps/test/{TILE}.png", world / f"tiles/test/{TILE}.jpg"]
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "answer.html"
        assert main("search", "", COMMANDS, argv=["query", *map(str, [*known, "--html", page, *seen])]) == 0
        pictures = re.findall(r"data:image/png;base64,([\w+/=]+)", page.read_text())
    tile, drawn = (Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB") for each in pictures)
    tile = tile.resize((EDGE, EDGE), Image.Resampling.NEAREST)
    whole = Image.new("RGB", (EDGE + 20 + drawn.width, drawn.height), "white")
    whole.paste(tile, (10, (drawn.height - EDGE) // 2))
    whole.paste(drawn, (EDGE + 20, 0))
    whole.quantize(128).save(out, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo"), Path(__file__).with_suffix(".png"))
