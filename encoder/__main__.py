"""`python -m encoder`: photos to vectors."""

from encoder.commands import embed
from indexer.cli import Command, main

DESCRIPTION = "Turn photos into vectors."
COMMANDS = {"embed": Command(embed)}

if __name__ == "__main__":
    raise SystemExit(main("encoder", DESCRIPTION, COMMANDS))
