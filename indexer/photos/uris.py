"""Where bytes may lie: local paths, and URIs of an allow-list of schemes, reached through fsspec; folders of both.

Tables are data, so what they name is held to rules: a scheme must be on the list, file systems are never chained
(`::`), relative names stay inside the bucket or host of their table, and an https server cannot send on to http.
Credentials come from the environment or fsspec's configuration files; those inside a URI are used, and masked in text.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from indexer.errors import GeoError, InputError, MissingBackend

# Local files and the stores people keep photos in. What is not encrypted (http, ftp), reaches into other machines
# (ssh, smb) or runs commands is left out, and can be asked for by name. Paths without a scheme count as `file`.
SCHEMES = ("file", "s3", "gs", "gcs", "az", "abfs", "hf", "https")

_URI = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*::)*([A-Za-z][A-Za-z0-9+.-]+)://")
_HTTP = ("http", "https")
_DEPTH = 128  # folders in folders; a web server can make up any number
_DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "hf": "huggingface_hub"}
# Written for Python's `re` and for RE2, which Arrow uses on whole columns. Other schemes than http write
# `container@account`, which is no secret, so there only a password makes a match.
MASKS = (
    (r"(https?://)[^/?#\s]*@", r"\1***@"),
    (r"([A-Za-z0-9+.]://)[^/?#\s]*:[^/?#\s]*@", r"\1***@"),
    (
        r"(?i)([?&](?:[^=&#\s]*(?:signature|token|secret|passw|pwd|credential|auth|jwt|key)[^=&#\s]*|sig)=)[^&#\s'\")]+",
        r"\1***",
    ),
)

Entry = tuple[str, bool]  # name relative to the folder that is walked, and whether it is a folder itself


def masked(message: object) -> str:
    """Text with the credentials of all URIs in it starred out: passwords, tokens and signatures of queries."""
    text = str(message)
    if "://" in text:
        for pattern, stars in MASKS:
            text = re.sub(pattern, stars, text)
    return text


def is_uri(location: str) -> bool:
    """Whether this names a scheme. Anything else is a local path, even with colons in it."""
    return _URI.match(location) is not None


def uri_scheme(uri: str) -> str:
    """The scheme of a URI in lower case, and `file` for a path."""
    match = _URI.match(uri)
    return "file" if match is None else match[1].lower()


def refusal(location: str, schemes: Sequence[str]) -> str | None:
    """Why a location may not be read, or None where it may."""
    if is_uri(location) and "::" in location:
        return "file systems cannot be chained with '::'"
    scheme = uri_scheme(location)
    if scheme not in schemes:
        return f"scheme {scheme!r} is not allowed (allowed: {', '.join(schemes)})"
    if is_uri(location) and scheme == "file" and not re.match(r"(?i:file)://(localhost)?(/|\Z)", location):
        return "a file URI has no host: file:///absolute/path"
    return None


def check_location(location: str, schemes: Sequence[str]) -> None:
    """Raise InputError where `refusal` has a reason."""
    reason = refusal(location, schemes)
    if reason is not None:
        allow = "" if "::" in location or uri_scheme(location) in schemes else ", or allow its scheme"
        raise InputError(f"{masked(location)}: {reason}. Copy it to where it may be read{allow}.")


def local_path(location: str) -> str | None:
    """The path of what lies on this machine, None for what does not."""
    if not is_uri(location):
        return location
    if uri_scheme(location) != "file":
        return None
    return unquote("/" + location.partition("://")[2].partition("/")[2], errors="surrogateescape")


def path_of(uri: str) -> str:
    """A URI without what follows `?` or `#`, where its scheme has queries."""
    return uri if uri_scheme(uri) not in _HTTP else urlsplit(uri)._replace(query="", fragment="").geturl()


def folder_of(uri: str) -> str:
    """What relative names in a file at a URI are relative to."""
    return path_of(uri).rpartition("/")[0]


def join(root: str, name: str) -> str:
    """Where a name leads to: a URI or an absolute path to itself, anything else below the root.

    Below a URI, `..` and a leading `/` lead no further than its bucket or host (RFC 3986, 5.2.4), and never to this
    machine's files. Local names may lead anywhere.
    """
    if is_uri(name):
        return name
    if not is_uri(root):
        return name if not root or name.startswith("/") else f"{root.rstrip('/')}/{name}"
    scheme, _, rest = root.partition("://")
    host, _, folder = rest.partition("/")
    parts = [] if name.startswith("/") or not folder else folder.rstrip("/").split("/")
    for part in name.lstrip("/").split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return "/".join((f"{scheme}://{host}", *parts))


def file_system(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a URI that `refusal` lets pass, and its path there. fsspec keeps one for each process.

    MissingBackend where the package that reads this scheme is not installed.
    """
    import fsspec

    scheme = uri_scheme(uri)
    try:
        options = {"get_client": _http_client} if scheme in _HTTP else {}
        system, path = fsspec.core.url_to_fs(scheme + uri[len(scheme) :], **options)
    except ImportError as error:
        package = _DRIVERS.get(scheme)
        advice = f"pip install {package}" if package else masked(error)
        raise MissingBackend(f"{scheme}:// needs another package here: {advice}") from None
    except ValueError as error:
        raise InputError(f"{masked(uri)}: {masked(error)}. Check how the address is written.") from None
    return system, path


@contextlib.contextmanager
def reading(location: str) -> Iterator[None]:
    """Turn any error at a location into an InputError; texts of drivers are masked, tracebacks cut off."""
    try:
        yield
    except GeoError:
        raise
    except Exception as error:  # noqa: BLE001 (each driver raises what its own libraries raise)
        cause = error.__cause__
        # fsspec calls a file on the web missing for any reason, such as a network that is down.
        unseen = cause is not None and getattr(cause, "status", None) != 404
        if isinstance(error, FileNotFoundError) and not unseen:
            raise InputError(f"{masked(location)}: no such file.") from None
        why = explained(cause if cause is not None and isinstance(error, FileNotFoundError) else error)
        raise InputError(f"{masked(location)}: cannot be read ({why}). Check it, and try again.") from None


def explained(error: BaseException) -> str:
    """What an error of a driver says, with credentials masked."""
    text = getattr(error, "strerror", None) or str(error)
    return masked(text) or type(error).__name__


def files_below(folder: str) -> Iterator[str]:
    """Names of all files below a folder, relative to it, with `/` between, in the order of these names.

    Links to files are files; links to folders are not followed. No more than one directory's names are held for each
    level of depth.

    Raises:
        InputError: a directory cannot be listed, or they are nested without end.
    """
    stack = [iter(entries(folder))]
    while stack:
        for name, is_folder in stack[-1]:
            if is_folder:
                if len(stack) == _DEPTH:
                    raise InputError(f"{masked(folder)}: more than {_DEPTH} folders in each other ({name}).")
                stack.append(iter(entries(folder, name)))
                break
            yield name
        else:
            stack.pop()


def entries(folder: str, below: str = "") -> list[Entry]:
    """What lies directly in a folder, or in one below it, in the order that puts all files below it in order."""
    path = local_path(folder)
    listing: Callable[[str, str], Iterator[Entry]] = _local if path is not None else _remote
    with reading(f"{folder.rstrip('/')}/{below}" if below else folder):
        found = list(listing(folder if path is None else path, below))
    # A folder's name ends with `/` in the paths below it, and that is how it compares with its neighbours.
    return sorted(found, key=lambda entry: f"{entry[0]}/" if entry[1] else entry[0])


def _local(folder: str, below: str) -> Iterator[Entry]:
    with os.scandir(os.path.join(folder, below)) as found:  # noqa: PTH118 (a Path for each file takes most of the time)
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield f"{below}/{entry.name}" if below else entry.name, True
            elif not entry.is_dir():
                yield f"{below}/{entry.name}" if below else entry.name, False


def _remote(folder: str, below: str) -> Iterator[Entry]:
    system, root = file_system(folder)
    root = root.rstrip("/")
    place = f"{root}/{below}" if below else root
    found = system.ls(place, detail=True)
    system.invalidate_cache(place)  # else every listing of a long walk is kept
    for entry in found:
        # A page of a web server may link to anywhere.
        if not entry["name"].startswith(f"{place}/"):
            continue
        name = entry["name"][len(root) + 1 :].rstrip("/")
        if name != below and ".." not in name.split("/"):
            yield name, entry["type"] == "directory"


async def _http_client(**options: Any) -> Any:
    import aiohttp

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_refuse_plain)
    return aiohttp.ClientSession(trace_configs=[trace], **options)


async def _refuse_plain(session: Any, context: Any, redirect: Any) -> None:
    target = redirect.response.headers.get("Location", "")
    if redirect.url.scheme == "https" and target.lower().startswith("http:"):
        raise PermissionError("the server sends on to http, which is not encrypted")
