"""The folder in which the commands keep compiled programs, so that they are compiled only once."""

import contextlib
import logging
import os
import pathlib
import time
from typing import Any

import jax

_LOG = logging.getLogger(__name__)
_DAYS_KEPT = 30
"""Days after their last use when programs are deleted."""
_ENDINGS = ("-cache", "-atime")
"""The endings of the files that JAX writes."""


def set_compilation_cache(enabled: bool) -> None:
    """Let JAX read and keep compiled programs in the user's cache folder, or nowhere.

    JAX's own settings come first: another folder (`JAX_COMPILATION_CACHE_DIR`), or none
    (`JAX_ENABLE_COMPILATION_CACHE=false`). Without a folder that can be written nothing is kept.
    """
    if not enabled:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    settings: Any = jax.config  # whose attributes type checkers do not know
    if settings.jax_compilation_cache_dir or not settings.jax_enable_compilation_cache:
        return
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        _delete_unused(folder)
        writable = os.access(folder, os.W_OK)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        _LOG.info("compiled programs are not kept: %s", error)
        return
    if writable:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def cache_folder() -> pathlib.Path:
    """Return the folder of compiled programs in the user's cache folder (XDG's specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "jaxseg" / "programs"


def _delete_unused(folder: pathlib.Path) -> None:
    """Delete the programs that were not used for long.

    Other files are left alone: the folder may be a link to one that holds more than programs.
    """
    oldest = time.time() - _DAYS_KEPT * 24 * 3600
    for file in folder.iterdir():
        if not file.name.endswith(_ENDINGS):
            continue
        with contextlib.suppress(FileNotFoundError):  # another process deletes them too
            times = file.stat()
            if file.is_file() and max(times.st_atime, times.st_mtime) < oldest:
                file.unlink()
