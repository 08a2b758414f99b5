"""Class maps with classes that the model does not know: made for another table, so that none of them can be trusted."""

from encoder.decoded_batch import DecodedBatch
from encoder.photo_reader import UNKNOWN_CLASS
from indexer.errors import InputError


def refuse_unknown_classes(batch: DecodedBatch, location: str) -> None:
    """Raise InputError where a map of a batch holds a class beyond the model's table, and name the photo."""
    for name, status, reason in zip(batch.name, batch.status, batch.reason, strict=True):
        if status == UNKNOWN_CLASS:
            raise InputError(
                f"{location}: {name}: {reason}. Its maps are of other classes: set model.fusion.classes to how many "
                "there are, or make them with another model (python -m encoder segment)."
            )
