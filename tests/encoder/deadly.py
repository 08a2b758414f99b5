"""A reader that some photos kill. Apart, so that a process that is to die of it imports little."""

import os
import signal

from encoder.photos.photo_reader import DecodedPhoto, PhotoReader
from indexer.errors import BadImage
from indexer.photos.photo import Photo


class Deadly(PhotoReader):
    """Reads photos, but those called so end its process, as a fault in a library does."""

    def __call__(self, photo: Photo) -> DecodedPhoto | BadImage:
        if photo.name.startswith("deadly"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(photo)
