"""Files of a source to import: found, opened and parsed without leaving it."""

import json
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from jaxseg.data.images import ImageSizeError, image_size, read_image
from jaxseg.data.importers.values import Options, Skipped
from jaxseg.files import open_regular

_HEAD_BYTES = 1 << 20
_PEEKED_FILES = 20
_OUTSIDE = "path outside the source; if you trust it, --allow-outside-files reads it"


class SourceFiles:
    """The files of a source, and the rule which of the paths that it names may be followed.

    `root` is the folder of the source, also if the source is a file.
    """

    def __init__(self, source: pathlib.Path, options: Options):
        # Absolute, since a relative root would seem to contain any path that begins with `..`.
        self.source, self.options, self.skipped = _absolute(source), options, Skipped()
        self._linked: set[pathlib.Path] = set()
        self.root = self.source if self.source.is_dir() else self.source.parent
        self.images = None if options.images is None else _absolute(options.images.expanduser())
        if self.images is not None and not self.images.is_dir():
            raise FileNotFoundError(f"no image folder {options.images}: correct --images")

    def resolve(self, base: pathlib.Path, name: str, where: object) -> pathlib.Path | None:
        """Return the path of a name that a file in `base` gives; None, counted, if it is outside.

        `..` is accepted as long as the path stays inside the source, and so are links in it.
        """
        path = _absolute(base / name.replace("\\", "/"))
        if self.is_allowed(path):
            return path
        self.skipped.add(_OUTSIDE, where)
        return None

    def is_allowed(self, path: pathlib.Path) -> bool:
        """Return whether an absolute path may be followed."""
        roots = [self.root, *([] if self.images is None else [self.images])]
        inside = any(path.is_relative_to(root) for root in roots)
        return inside or self.options.allow_outside_files

    def find_image(
        self,
        folders: Sequence[pathlib.Path],
        name: str,
        where: object,
        others: Sequence[pathlib.Path] = (),
    ) -> pathlib.Path | None:
        """Return the first file of that name in some folders or in `--images`, or of `others`.

        None if there is none; a path outside the source is then counted.
        """
        given = name.replace("\\", "/")
        candidates = [folder / given for folder in folders]
        if self.images is not None:
            candidates += [self.images / given, self.images / given.rpartition("/")[2]]
        paths = [_absolute(path) for path in (*candidates, *others)]
        allowed = [path for path in paths if self.is_allowed(path)]
        found = next((path for path in allowed if path.is_file()), None)
        if found is None and len(allowed) < len(paths):
            self.skipped.add(_OUTSIDE, where)
        return found

    def list_files(self, folder: pathlib.Path, suffixes: Collection[str]) -> Iterator[pathlib.Path]:
        """Yield files as `list_files` does, and count the links to folders as lost."""
        yield from list_files(folder, suffixes, self._lose_link)

    def list_json(self) -> Iterator[pathlib.Path]:
        """Yield the JSON files of the source, as `json_files` does; count links to folders."""
        yield from json_files(self.source, self._lose_link)

    def _lose_link(self, path: pathlib.Path) -> None:
        if path not in self._linked:
            self._linked.add(path)
            self.skipped.add("link to a folder, not followed", self.name_of(path))

    def measure(
        self, path: pathlib.Path, claimed: tuple[int, int] | None = None
    ) -> tuple[int, int] | None:
        """Return the `(height, width)` of an image for its annotations.

        `claimed` is the size that they state: it decides about EXIF rotation, as in training. None,
        counted, if the image cannot be read or has another size.
        """
        try:
            size = image_size(path)
            if claimed is not None and claimed != size:
                read_image(path, claimed)
                return claimed
        except ImageSizeError as error:
            self.skipped.add("image of another size than its annotations say", error)
        except (ValueError, OSError) as error:
            self.skipped.add("image that cannot be read", error)
        else:
            return size
        return None

    def name_of(self, path: pathlib.Path) -> str:
        """Return the path of a file inside the source: its name in messages and the new folder."""
        path = _absolute(path)
        for root in (self.root, self.images):
            if root is not None and path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        return path.name


def _absolute(path: pathlib.Path) -> pathlib.Path:
    """Return an absolute path without `..`."""
    return pathlib.Path(os.path.abspath(path))


def list_files(
    folder: pathlib.Path,
    suffixes: Collection[str],
    on_link: Callable[[pathlib.Path], None] = lambda _: None,
) -> Iterator[pathlib.Path]:
    """Yield the files with these suffixes in a folder and below, by name; hidden ones are left out.

    Links to folders are not followed: `on_link` is called with each.
    """
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[:1] != ".")
        for name in folders:
            path = pathlib.Path(parent, name)
            if path.is_symlink():
                on_link(path)
        for name in sorted(names):
            path = pathlib.Path(parent, name)
            if name[:1] != "." and path.suffix.lower() in suffixes:
                yield path


def json_files(
    source: pathlib.Path, on_link: Callable[[pathlib.Path], None] = lambda _: None
) -> Iterator[pathlib.Path]:
    """Yield the JSON files of a source, which may itself be one; `on_link` as in `list_files`."""
    if source.is_file():
        yield from [source] if source.suffix.lower() == ".json" else []
    else:
        yield from list_files(source, {".json"}, on_link)


def heads(source: pathlib.Path) -> Iterator[str]:
    """Yield the beginnings of the first JSON files of a source, to detect its format."""
    for _, path in zip(range(_PEEKED_FILES), json_files(source), strict=False):
        yield head(path)


def head(path: pathlib.Path) -> str:
    """Return the beginning of a text file; "" if it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(_HEAD_BYTES).decode("utf-8-sig", errors="replace")
    except OSError:
        return ""


def read_text(path: pathlib.Path, max_bytes: int | None = None) -> str:
    """Read a text file; raise ValueError with its name if that fails or it has more bytes."""
    try:
        with open_regular(path) as file:
            data = file.read(-1 if max_bytes is None else max_bytes + 1)
        if max_bytes is not None and len(data) > max_bytes:
            raise ValueError(f"it has more than {max_bytes} bytes")
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as text: {error}") from error


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON object; raise ValueError with the file's name if it is none."""
    try:
        content = json.loads(read_text(path))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): export it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a JSON object: export it again")
    return content
