"""`python -m indexer`: partitions, bundles and the registry."""

from indexer.cli import Command, main
from indexer.commands import build, info, partition, pin, publish, retire, rollback, unpin, verify

DESCRIPTION = "Divide the Earth into cells, build bundles from them, and publish bundles in a registry."
COMMANDS = {
    "partition": Command(partition),
    "build": Command(build),
    "info": Command(info),
    "verify": Command(verify),
    "publish": Command(publish),
    "rollback": Command(rollback),
    "retire": Command(retire),
    "pin": Command(pin),
    "unpin": Command(unpin),
}

if __name__ == "__main__":
    raise SystemExit(main("indexer", DESCRIPTION, COMMANDS))
