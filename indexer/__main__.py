"""`python -m indexer`: partitions, bundles and the registry."""

from indexer.cli import Command, main
from indexer.commands import build, ceiling, export, partition, update
from indexer.registry_commands import info, pin, publish, retire, rollback, unpin, verify

DESCRIPTION = "Divide the Earth into cells, build bundles from them, publish bundles in a registry, and export cells."
COMMANDS = {
    "partition": Command(partition),
    "update": Command(update),
    "ceiling": Command(ceiling),
    "build": Command(build),
    "info": Command(info),
    "verify": Command(verify),
    "publish": Command(publish),
    "export": Command(export),
    "rollback": Command(rollback),
    "retire": Command(retire),
    "pin": Command(pin),
    "unpin": Command(unpin),
}

if __name__ == "__main__":
    raise SystemExit(main("indexer", DESCRIPTION, COMMANDS))
