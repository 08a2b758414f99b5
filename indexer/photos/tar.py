"""Tar archives as lists of byte ranges: ustar, pax and GNU, read header by header, with nothing unpacked.

Python's own `tarfile` takes a damaged header in the middle for the end of the archive, keeps every member it has seen,
and reads extended headers of any size; here damage is an error that names the byte, and all sizes have limits.
Format: POSIX.1-2001 (pax), https://www.gnu.org/software/tar/manual/html_node/Standard.html.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from indexer.errors import InputError

_BLOCK = 512
_MAX_EXTENDED = 1 << 20  # bytes of one extended header; a name takes a few hundred
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_FILE = (b"0", b"\0", b"7")  # regular files, as POSIX, older tars and contiguous ones write them
_FOLDER = b"5"
_GNU = {b"L": "path", b"K": "linkpath"}  # whole members that hold a name of the next one
_SPARSE = "sparse"
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", _FOLDER, b"6")  # links, devices, folders, pipes


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive, and where its bytes lie."""

    name: str  # as the archive has it; bytes that are not UTF-8 as surrogate escapes
    offset: int
    size: int  # bytes
    is_file: bool  # regular; False for links, devices, pipes and sparse files
    is_folder: bool


def members(read: Callable[[int, int], bytes], *, length: int, source: str) -> Iterator[Member]:
    """The members of an archive in order.

    Args:
        read: (offset, size) -> bytes, fewer only where the archive ends.
        length: of the archive in bytes.
        source: what messages call the archive.

    Raises:
        InputError: not a tar, compressed, damaged, or it ends too early; after all members before that place.
    """
    place = 0
    extended: dict[str, bytes] = {}  # of the next member
    everywhere: dict[str, bytes] = {}  # pax headers of all members that follow
    while True:
        block = read(place, _BLOCK)
        if len(block) < _BLOCK:
            raise _damaged(source, place, "the archive ends here without its end mark")
        if not any(block):
            return
        kind, size = _header(block, source, place)
        data = place + _BLOCK
        if kind in (b"x", b"g", b"L", b"K"):
            if size > _MAX_EXTENDED:
                raise _damaged(
                    source, data, f"an extended header of {size:,} bytes; at most {_MAX_EXTENDED:,} are read"
                )
            text = read(data, size)
            if len(text) < size:
                raise _damaged(source, data, "the archive ends within an extended header")
            if kind == b"g":
                everywhere |= _pax(text, source, data)
            else:
                extended |= _pax(text, source, data) if kind == b"x" else {_GNU[kind]: text.split(b"\0")[0]}
        else:
            more = block[482] if kind == b"S" else 0
            while more:  # a sparse file's header goes on for as long as its blocks say
                more, data = (read(data, _BLOCK) + bytes(_BLOCK))[504], data + _BLOCK
            fields = everywhere | extended
            extended = {}
            size = _decimal(fields["size"], source, place) if "size" in fields else size
            name = fields.get("path", _ustar_name(block))
            size = 0 if kind in _WITHOUT_DATA or (kind == b"\0" and name.endswith(b"/")) else size
            if data + size > length:
                raise _damaged(source, place, f"a member of {size:,} bytes begins here, and {length - data:,} are left")
            is_folder = kind == _FOLDER or name.endswith(b"/")
            is_file = kind in _FILE and not is_folder and _SPARSE not in fields
            yield Member(name.decode("utf-8", "surrogateescape"), data, size, is_file, is_folder)
        place = data + -(-size // _BLOCK) * _BLOCK


def _header(block: bytes, source: str, place: int) -> tuple[bytes, int]:
    """Kind and size of a member, from a header whose checksum is right."""
    if place == 0:
        for magic, name in _COMPRESSED.items():
            if block.startswith(magic):
                raise InputError(
                    f"{source}: compressed with {name}, so no photo in it can be read without all before it. "
                    "Unpack it to a plain .tar; images do not shrink."
                )
    cleared = block[:148] + b" " * 8 + block[156:]
    try:
        over = sum(cleared) - _number(block[148:156])
        # Some old tars added bytes up as if they had a sign.
        right = over == 0 or over == 256 * sum(byte > 127 for byte in cleared)
        size = _number(block[124:136])
    except ValueError:
        right, size = False, 0
    if not right or size < 0:
        raise _damaged(source, place, "not a tar archive" if place == 0 else "no header of a member is here")
    return block[156:157], size


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU: a binary number, for sizes from 8 GiB on
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:])
    return int(field.split(b"\0")[0].strip() or b"0", 8)


def _ustar_name(block: bytes) -> bytes:
    name, prefix = block[:100].split(b"\0")[0], block[345:500].split(b"\0")[0]
    # GNU's own format has other fields where ustar has the prefix.
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _pax(text: bytes, source: str, place: int) -> dict[str, bytes]:
    """What matters of the records of a pax header: `<length> <key>=<value>` and a line feed, all of it counted."""
    fields, at = {}, 0
    while at < len(text):
        space = text.find(b" ", at, at + 8)
        end = at + _decimal(text[at:space], source, place) if space > at else at
        key, equals, value = text[space + 1 : end - 1].partition(b"=")
        if not equals or end > len(text) or text[end - 1 : end] != b"\n":
            raise _damaged(source, place, "a broken extended header")
        if key in (b"path", b"size"):
            fields[key.decode()] = value
        elif key.startswith(b"GNU.sparse"):
            fields[_SPARSE] = b""
        at = end
    return fields


def _decimal(digits: bytes, source: str, place: int) -> int:
    if not digits.isdigit() or len(digits) > 19:
        raise _damaged(source, place, "a broken extended header")
    return int(digits)


def _damaged(source: str, place: int, what: str) -> InputError:
    return InputError(f"{source}: damaged at byte {place:,}: {what}. Copy or make it again.")
