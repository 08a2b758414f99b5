"""`python -m search`: photos to places."""

from indexer.cli import Command, main
from indexer.jobs.memory_pool import share_memory_pool
from search.commands import check, export, query, run, show, status
from search.evaluation_commands import audit, calibrate, evaluate
from search.serve_commands import serve, token

DESCRIPTION = (
    "Say where photos were taken: a few at once, millions offline, or by HTTP; and measure how right the answers are."
)
COMMANDS = {
    "query": Command(query, positional={"photos": "image files"}),
    "check": Command(check, positional={"photos": "image files"}),
    "run": Command(run),
    "status": Command(status, positional={"job": "folder of the job"}),
    "show": Command(show, positional={"predictions": "folder of the job"}),
    "export": Command(export, positional={"predictions": "folder of the job"}),
    "evaluate": Command(evaluate),
    "audit": Command(audit),
    "calibrate": Command(calibrate),
    "serve": Command(serve),
    "token": Command(token),
}

if __name__ == "__main__":
    share_memory_pool()
    raise SystemExit(main("search", DESCRIPTION, COMMANDS))
