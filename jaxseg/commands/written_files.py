"""The list of the files that a command wrote to a folder, for a rerun to remove outdated ones."""

import contextlib
import json
import pathlib
from collections.abc import Collection

from jaxseg.files import atomic_write

NAME = "written_files.jsonl"


class WrittenFiles:
    """Lists files of `folder` in `written_files.jsonl`, one path in each line.

    A file is listed before it is written, so that the list is complete after an error or a kill.

    Args:
        folder: the folder, which exists.
        subfolders: the only folders below it that files are removed from, whatever the list says.
    """

    def __init__(self, folder: pathlib.Path, subfolders: Collection[str]):
        self._folder, self._list = folder, folder / NAME
        self._allowed = {pathlib.PurePath(), *map(pathlib.PurePath, subfolders)}
        self._before = _read(self._list)
        self._now: dict[str, None] = {}

    def add(self, path: pathlib.Path) -> None:
        """List a file of the folder."""
        name = str(path.relative_to(self._folder))
        self._now[name] = None
        with self._list.open("a") as file:
            file.write(json.dumps(name) + "\n")

    def remove_outdated(self, keep: Collection[pathlib.Path]) -> None:
        """Remove what earlier runs listed and this one did not, except the files in `keep`."""
        kept = {path.absolute() for path in keep}
        for name in self._before - self._now.keys():
            path = self._folder / name
            is_own = pathlib.PurePath(name).parent in self._allowed
            if is_own and path.name not in ("", "..") and path.absolute() not in kept:
                with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                    path.unlink()
        with atomic_write(self._list) as partial:
            partial.write_text("".join(json.dumps(name) + "\n" for name in self._now))


def _read(path: pathlib.Path) -> set[str]:
    """Return the paths of a list, none without one. Lines that a kill cut off are ignored."""
    names: set[str] = set()
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                name = json.loads(line)
                names |= {name} if isinstance(name, str) else set()
    return names
