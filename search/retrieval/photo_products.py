"""Products of queries with photos of a gallery: fast, with a bound on how far each can be from its true value.

In: queries, and ranges of a gallery's rows. Out: the photos whose product with a query reaches what it has to reach.

Photos in 8 bits are compared as they are stored, on processors that multiply bytes: x = middle + step * (code - 128),
so q . x is a constant of the query plus (q * step) . (code - 128), and q * step is rounded to bytes too. All else is
decoded to float32. In both ways `search.retrieval.gallery_lists` looks again, in float32, at every photo that the bound
leaves possible: neither changes an answer.
"""

from typing import Protocol

import numpy as np
import torch

from encoder.models.device import multiplies_bytes
from indexer.bundles.gallery import Gallery
from search.retrieval.proof import float32_error

_MOST = 127  # of a byte with a sign, as many below 0 as above
_ZERO = 128  # the code that stands for the middle of a range
_ROUNDED = 1 << 8  # queries that are rounded at once
_SHAPES = 32  # numbers of queries and photos are multiples of it: a product is made ready once for each shape
_FLAT = 1.0 + 1e-6  # bounds are a little wider than they are worked out


class PhotoProducts(Protocol):
    """A way to compare photos with some queries."""

    rows_at_once: int  # photos that are good to compare at once
    error: np.ndarray  # (Q,) float64, how far a product can be from that of the decoded vector

    def above(
        self, queries: np.ndarray, begins: np.ndarray, ends: np.ndarray, least: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Photos whose products reach a least one.

        queries: (m,) int64, which ones. begins, ends: (p,) int64, of ranges of the gallery's rows, each within one
        list. least: (m,) float64, for each query. Returns which photo of all ranges, (k,) int64, which of the m
        queries, (k,) int64, and products (k,) float32.
        """
        ...


def products_of(gallery: Gallery, queries: np.ndarray) -> PhotoProducts:
    """As suits a gallery and this processor; queries: (Q, D) float32."""
    scale = gallery.scale()
    if scale is None or not multiplies_bytes():
        return FloatProducts(gallery, queries)
    return ByteProducts(gallery, queries, *scale)


class FloatProducts:
    """In float32, of decoded vectors."""

    rows_at_once = 1 << 8

    def __init__(self, gallery: Gallery, queries: np.ndarray) -> None:
        self._lists, self._queries = gallery.lists, queries
        length = np.linalg.norm(queries.astype(np.float64), axis=1)
        # Twice: this product and the similarity that it stands for are both summed in float32.
        self.error = 2 * length * float32_error(queries.shape[1]) * _longest(gallery) * _FLAT

    def above(
        self, queries: np.ndarray, begins: np.ndarray, ends: np.ndarray, least: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `PhotoProducts`."""
        codes = self._lists.pieces(begins, ends)
        vectors = self._lists.codec.decode(codes[0] if len(codes) == 1 else np.concatenate(codes))
        # Not by numpy: its library of matrices begins threads of its own, in each of those that this is called from.
        product = (torch.from_numpy(vectors) @ torch.from_numpy(self._queries[queries]).T).numpy()
        photo, query = np.divmod(np.flatnonzero(product >= least), len(queries))
        return photo, query, product[photo, query]


class ByteProducts:
    """In 8 bits, of codes."""

    rows_at_once = 1 << 11

    def __init__(self, gallery: Gallery, queries: np.ndarray, offset: np.ndarray, step: np.ndarray) -> None:
        """offset, step: (D,) float32, as `Gallery.scale` gives them."""
        self._lists = gallery.lists
        middle, step = offset + _ZERO * step.astype(np.float64), step.astype(np.float64)
        reach = _longest(gallery) + float(np.linalg.norm(middle))
        self._scale, self._constant, self.error = (np.empty(len(queries)) for _ in range(3))
        self._bytes = torch.empty(queries.shape, dtype=torch.int8)
        for begin in range(0, len(queries), _ROUNDED):
            part = slice(begin, begin + _ROUNDED)
            wide = queries[part].astype(np.float64)
            scaled = wide * step
            scale = np.maximum(np.abs(scaled).max(axis=1, initial=0), np.finfo(np.float32).tiny) / _MOST
            rounded = np.rint(scaled / scale[:, None])
            # (scaled - rounded) . (code - 128) is ((scaled - rounded) / step) . (x - middle), of a unit vector x.
            lost = np.divide(scaled - rounded * scale[:, None], step, out=np.zeros_like(scaled), where=step > 0)
            length = np.linalg.norm(wide, axis=1)
            # The last term: a vector is decoded, and its similarity summed, in float32.
            slack = 2 * length * float32_error(queries.shape[1]) * reach
            self.error[part] = (np.linalg.norm(lost, axis=1) * reach + slack) * _FLAT
            self._scale[part], self._constant[part] = scale, wide @ middle
            self._bytes[part] = torch.from_numpy(rounded.astype(np.int8))

    def above(
        self, queries: np.ndarray, begins: np.ndarray, ends: np.ndarray, least: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `PhotoProducts`."""
        n, m = int((ends - begins).sum()), len(queries)
        codes = np.empty((-(-n // _SHAPES) * _SHAPES, self._bytes.shape[1]), np.uint8)
        at = 0
        for piece in self._lists.pieces(begins, ends):
            np.bitwise_xor(piece, np.uint8(_ZERO), out=codes[at : at + len(piece)])  # less 128, as a byte with a sign
            at += len(piece)
        wanted = np.zeros(-(-m // _SHAPES) * _SHAPES, np.int64)
        wanted[:m] = queries
        rows = self._bytes.index_select(0, torch.from_numpy(wanted))
        product = torch._int_mm(torch.from_numpy(codes).view(torch.int8), rows.T).numpy()
        enough = np.full(len(wanted), np.iinfo(np.int32).max)
        bound = np.floor((least - self._constant[queries]) / self._scale[queries])
        enough[:m] = np.clip(bound, np.iinfo(np.int32).min, np.iinfo(np.int32).max)
        photo, query = np.divmod(np.flatnonzero(product[:n] >= enough.astype(np.int32)), len(wanted))
        own = queries[query]
        return photo, query, (self._constant[own] + self._scale[own] * product[photo, query]).astype(np.float32)


def _longest(gallery: Gallery) -> float:
    """The longest a decoded vector can be: they are unit vectors, but for how they are kept."""
    scale = gallery.scale()
    if scale is not None:
        return 1.0 + float(np.linalg.norm(scale[1].astype(np.float64))) / 2 + 1e-3
    return 1.0 + 1e-2
