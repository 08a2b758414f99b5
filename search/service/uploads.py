"""The body of a request, read into memory and nowhere else, within limits that hold while it is read.

In: a multipart body as it comes, piece by piece. Out: its files and fields. A file is admitted before its first byte is
kept, so that what waits in memory has been let in (`search.service.admission`); a body that is too large ends where it
is.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

_FIELD_BYTES = 256 << 10  # of a field that is no file: a GeoJSON region is the largest
_FIELDS = 32
_NAME_LENGTH = 255


class BadUpload(Exception):
    """A body that cannot be used: the HTTP status to answer with, and a sentence."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a body."""

    field: str  # its name in the form
    name: str  # of the file, as its sender calls it
    content: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """What a multipart body holds."""

    files: list[Upload]
    fields: Mapping[str, str]


@dataclass(slots=True)
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    header_name: bytes = b""
    header_value: bytes = b""
    name: str = ""
    file_name: str | None = None
    content: bytearray = field(default_factory=bytearray)


class _Reader:
    """Keeps the parts of a body as they come; called by the parser."""

    def __init__(self, admit: Callable[[str], None]) -> None:
        self.files, self.fields, self.ended = list[Upload](), dict[str, str](), False
        self._admit = admit
        self._part = _Part()

    def on_part_begin(self) -> None:
        self._part = _Part()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.header_value += data[start:end]

    def on_header_end(self) -> None:
        part = self._part
        part.headers[part.header_name.lower()] = part.header_value
        part.header_name = part.header_value = b""

    def on_headers_finished(self) -> None:
        part = self._part
        disposition, options = parse_options_header(part.headers.get(b"content-disposition", b""))
        if disposition != b"form-data" or not options.get(b"name"):
            raise BadUpload(400, "A part of the form has no name: send fields and files of a multipart form.")
        part.name = options[b"name"].decode("utf-8", "replace")
        file_name = options.get(b"filename")
        part.file_name = None if file_name is None else _plain_name(file_name.decode("utf-8", "replace"))
        if part.file_name is None:
            if len(self.fields) >= _FIELDS:
                raise BadUpload(400, f"The form has more than {_FIELDS} fields.")
            return
        self._admit(part.name)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        part.content += data[start:end]
        if part.file_name is None and len(part.content) > _FIELD_BYTES:
            raise BadUpload(413, f"The field {part.name!r} is longer than {_FIELD_BYTES:,} bytes.")

    def on_part_end(self) -> None:
        part = self._part
        if part.file_name is not None:
            self.files.append(Upload(part.name, part.file_name, bytes(part.content)))
        elif part.name in self.fields:
            raise BadUpload(400, f"The field {part.name!r} is there twice.")
        else:
            try:
                self.fields[part.name] = part.content.decode("utf-8")
            except UnicodeDecodeError:
                raise BadUpload(400, f"The field {part.name!r} is not UTF-8 text.") from None
        self._part = _Part()

    def on_end(self) -> None:
        self.ended = True


async def read_form(pieces: AsyncIterator[bytes], content_type: str, *, admit: Callable[[str], None]) -> Form:
    """The files and fields of a multipart body.

    admit: called with the field of each file before it is read in; what it raises ends the reading, as what pieces do.

    Raises:
        BadUpload: another kind of body, one that is broken off, or a field that is wrong.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise BadUpload(415, "Send photos as multipart/form-data.")
    reader = _Reader(admit)
    callbacks = {name: getattr(reader, name) for name in vars(_Reader) if name.startswith("on_")}
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        async for piece in pieces:
            parser.write(piece)
        parser.finalize()
    except FormParserError as error:
        raise BadUpload(400, f"The form cannot be read: {error}.") from None
    if not reader.ended:
        raise BadUpload(400, "The form ends before its end: the request was cut short.")
    return Form(reader.files, reader.fields)


async def within(pieces: AsyncIterator[bytes], length_header: str, *, max_bytes: int) -> AsyncIterator[bytes]:
    """The same pieces, as long as there are not too many; of a body that says that it is too large nothing is read.

    length_header: its Content-Length; empty where it has none. Raises BadUpload.
    """
    too_large = BadUpload(413, f"The request is larger than {max_bytes:,} bytes. Send less at once.")
    if (length := length_of(length_header)) is not None and length > max_bytes:
        raise too_large
    read = 0
    async for piece in pieces:
        read += len(piece)
        if read > max_bytes:
            raise too_large
        yield piece


def length_of(length_header: str) -> int | None:
    """What a header Content-Length says; None where it is no number."""
    plain = length_header.isascii() and length_header.isdigit()
    return int(length_header[:20]) if plain else None  # more digits are more than anybody takes


def _plain_name(name: str) -> str:
    """A file's name without folders and signs that no page or log should show."""
    name = name.replace("\\", "/").rpartition("/")[2]
    return "".join(sign for sign in name if sign.isprintable())[:_NAME_LENGTH] or "photo"
