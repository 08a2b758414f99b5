"""`python -m training`: photos and a hierarchy to a checkpoint."""

from indexer.cli import Command, main
from training.commands import fit

DESCRIPTION = "Learn an encoder and the geocells of a hierarchy."
COMMANDS = {"fit": Command(fit)}

if __name__ == "__main__":
    raise SystemExit(main("training", DESCRIPTION, COMMANDS))
