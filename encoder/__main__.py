"""`python -m encoder`: photos to vectors, and to maps of what they show."""

from encoder.commands import convert, embed, segment
from indexer.cli import Command, main

DESCRIPTION = "Turn photos into vectors, and into maps of what they show."
COMMANDS = {"embed": Command(embed), "segment": Command(segment), "convert": Command(convert)}

if __name__ == "__main__":
    raise SystemExit(main("encoder", DESCRIPTION, COMMANDS))
