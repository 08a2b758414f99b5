"""`python -m training`: photos, or their vectors, and a hierarchy to a checkpoint."""

from indexer.cli import Command, Group, main
from training.adopt_commands import geoclip, names
from training.commands import fit, refit

DESCRIPTION = "Learn an encoder and the geocells of a hierarchy, or new geocells for an encoder that stays."
SECTIONS = ("data", "model", "loss", "optimizer", "lr_scheduler", "trainer")  # named as on Lightning's command line
ADOPT = Group(
    "Take over a published model, with nothing trained.", {"geoclip": Command(geoclip), "names": Command(names)}
)
COMMANDS: dict[str, Command | Group] = {"fit": Command(fit, sections=SECTIONS), "refit": Command(refit), "adopt": ADOPT}

if __name__ == "__main__":
    raise SystemExit(main("training", DESCRIPTION, COMMANDS))
