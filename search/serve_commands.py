"""The commands of `python -m search` about a service."""

from pathlib import Path

from encoder.config import EncoderOptions, ReadOptions
from indexer.cli import Result
from indexer.errors import MissingBackend
from search.answers.options import SearchOptions
from search.service.options import ServeOptions


def serve(
    *,
    registry: Path,
    checkpoint: str,
    options: ServeOptions,
    search: SearchOptions,
    encoder: EncoderOptions,
    read: ReadOptions,
) -> Result | None:
    """Answer photos by HTTP until it is told to end, always from the version that is current.

    Args:
        registry: registry folder with a published bundle; what is published later is taken up.
        checkpoint: the checkpoint the bundle was built from, or hf:<hub id or folder>.
        options: where it listens, who may ask, how much at a time.
        search: how places are searched for; a request may add a region, or say where answers point.
        encoder: which maps photos are seen with, and where it runs.
        read: which photos are read.
    """
    try:
        from search.service.server import serve as serve_photos
    except ModuleNotFoundError as error:
        raise MissingBackend(f"{error.name} is needed to serve. Install it: pip install 'geosurge[serve]'") from None

    serve_photos(registry, checkpoint, options=options, search=search, encoder=encoder, read=read)
    return None


def token(*, name: str, tokens: Path, precision_cap: float | None = None) -> Result:
    """Make a token for somebody who may ask a service, and add them to its file; the token is shown once.

    Args:
        name: who it is for; the audit log has it.
        tokens: file of --tokens; made where it is not there, for its owner alone.
        precision_cap: tell them no place finer than so many kilometres.
    """
    from search.service.tokens import add_token

    made = add_token(tokens, name, precision_cap=precision_cap)
    text = f"{made}\nThis is the token of {name}; it is not shown again. It counts once the service is started anew."
    return Result({"name": name, "token": made, "tokens": str(tokens)}, text)
