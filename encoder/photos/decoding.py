"""Photos decoded ahead of the model: worker processes read and decode, batches arrive in the order of the photos.

In: a stream of `Photo`. Out: a stream of `DecodedBatch`, with a reason for each photo that has no pixels. What a photo
can do to the process that decodes it ends neither the work nor the row.
"""

import itertools
import logging
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing

from PIL import Image

from encoder.photos.decoded_batch import DecodedBatch, pack
from encoder.photos.decoders import decode_batch, decode_one, decoders
from encoder.photos.photo_reader import DecodedPhoto, PhotoReader
from indexer.errors import BadImage, InputError, WorkError
from indexer.photos.photo import Photo

log = logging.getLogger(__name__)

_CRASHED = BadImage(
    "crashed", "the process that decoded it died, twice (of too little memory, or a fault in a library)"
)
_BATCHES_AHEAD = 2  # of each worker
_MOST_DEATHS = 6  # photos one after the other that end their process: then it is not the photos
_FEW_PHOTOS = 12  # a source of so many is decoded in this process: starting others takes longer


def decoded_batches(
    batches: Iterable[list[Photo]], read: PhotoReader, *, workers: int, pin: bool = False, few_here: bool = True
) -> Generator[DecodedBatch, None, None]:
    """Decode batches of photos in their order, ahead of whoever takes them.

    Args:
        batches: asked for only as far ahead as there is room.
        read: what is done with each photo.
        workers: processes that decode; 0, and where there are only a few photos: this one.
        pin: put pixels where a GPU can fetch them fast.
        few_here: decode a few photos in this process, which is sooner done, and ends with what they do to it.

    A worker process that dies, for want of memory or of a fault in a library, ends nothing: what it had in hand is
    decoded again one by one, and a photo that ends a process twice is a row like any other that cannot be used.

    Raises:
        WorkError: photo after photo ends its process, or there is too little shared memory.
        GeoError: what ends the work wherever photos are read: a damaged cache, a package that is not installed.
    """
    source, first = iter(batches), list[list[Photo]]()
    while few_here and sum(map(len, first)) <= _FEW_PHOTOS and (batch := next(source, None)) is not None:
        first.append(batch)
    source = itertools.chain(first, source)
    if not workers or (few_here and sum(map(len, first)) <= _FEW_PHOTOS):
        for batch in source:
            yield pack([(photo, read(photo)) for photo in batch])
        return
    handed, lonely = deque[list[Photo]](), _LonelyReader(read)  # with the workers; and who reads what they died of
    while True:
        arriving = deque[Future[DecodedBatch]]()
        try:
            with ThreadPoolExecutor(1) as pinning, decoders(read, workers) as pool:
                while True:
                    for batch in itertools.islice(source, _BATCHES_AHEAD * workers - len(handed)):
                        if any(isinstance(photo.data, Image.Image) for photo in batch):
                            raise InputError(
                                "Photos given as images are decoded in this process alone: give `workers` 0."
                            )
                        handed.append(batch)
                        sent = pool.submit(decode_batch, batch)
                        arriving.append(pinning.submit(lambda each: each.result().pin_memory(), sent) if pin else sent)
                    if not handed:
                        return
                    decoded = arriving.popleft().result()
                    handed.popleft()
                    lonely.deaths = 0
                    yield decoded
        except BrokenExecutor as error:
            log.warning("a decoding process died (%s): its photos are decoded again, one by one", error)
        with closing(lonely):
            while handed:
                yield pack([(photo, lonely(photo)) for photo in handed[0]])
                handed.popleft()


class _LonelyReader:
    """Decodes photos one by one in a process of their own, which is started again where a photo ends it."""

    def __init__(self, read: PhotoReader) -> None:
        self.deaths = 0  # since the last photo that ended no process
        self._read = read
        self._pool: ProcessPoolExecutor | None = None
        self._opened = ExitStack()

    def __call__(self, photo: Photo) -> DecodedPhoto | BadImage:
        """As the PhotoReader; where two processes died of the photo, that is what is wrong with it."""
        for _ in range(2):
            try:
                self._pool = self._pool or self._opened.enter_context(decoders(self._read, 1))
                result = self._pool.submit(decode_one, photo).result()
            except BrokenExecutor:
                self.close()
                continue
            self.deaths = 0
            return result
        self.deaths += 1
        if self.deaths == _MOST_DEATHS:
            raise WorkError(
                f"{self.deaths} photos in a row ended the process that decoded them, the last one {photo.name!r}. If "
                "memory ran out, lower `workers` or `batch_size`; then run it again."
            )
        return _CRASHED

    def close(self) -> None:
        """End its process; the next photo starts another one."""
        self._pool = None
        self._opened.close()
