"""Folders, local or at a URI: the files below them in order, a directory at a time."""

import os
from collections.abc import Callable, Iterator

from indexer.errors import InputError
from indexer.photos.uris import file_system, local_path, masked, reading

_DEPTH = 128  # folders in folders; a web server can make up any number

Entry = tuple[str, bool]  # name relative to the folder that is walked, and whether it is a folder itself


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
    """What lies directly in a folder, or in one below it, in the order that puts all files below it in order.

    Raises:
        InputError: it cannot be listed.
    """
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
