"""`python -m training`: photos, or their vectors, and a hierarchy to a checkpoint."""

from indexer.cli import Command, main
from training.commands import fit, refit

DESCRIPTION = "Learn an encoder and the geocells of a hierarchy, or new geocells for an encoder that stays."
COMMANDS = {"fit": Command(fit), "refit": Command(refit)}

if __name__ == "__main__":
    raise SystemExit(main("training", DESCRIPTION, COMMANDS))
