"""`python -m encoder`: photos to vectors, and to maps of what they show."""

from encoder.commands import embed, segment
from indexer.cli import Command, main

DESCRIPTION = "Turn photos into vectors, and into maps of what they show."
COMMANDS = {"embed": Command(embed), "segment": Command(segment)}

if __name__ == "__main__":
    raise SystemExit(main("encoder", DESCRIPTION, COMMANDS))
