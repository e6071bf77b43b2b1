"""The folder of compiled programs that the commands use."""

import os
import time

import jax
import pytest

from jaxseg.commands import compilation_cache
from jaxseg.commands.cli import main
from jaxseg.commands.compilation_cache import cache_folder, set_compilation_cache

DAY = 24 * 3600


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    """Restore JAX's settings, which are of the whole process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_enable_compilation_cache", True)


def test_programs_are_kept_in_the_users_cache_folder(tmp_path):
    set_compilation_cache(True)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache" / "jaxseg" / "programs")
    assert cache_folder().is_dir()


def test_settings_of_jax_come_first(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    set_compilation_cache(True)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    set_compilation_cache(True)
    assert jax.config.jax_compilation_cache_dir is None


def test_programs_that_were_not_used_for_long_are_deleted():
    folder = cache_folder()
    folder.mkdir(parents=True)
    for name, days in (("old-cache", 31), ("old-atime", 31), ("new-cache", 29), ("thesis.tex", 31)):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (time.time() - days * DAY,) * 2)
    (folder / "folder of JAX").mkdir()
    os.utime(folder / "folder of JAX", (0, 0))
    set_compilation_cache(True)
    assert sorted(file.name for file in folder.iterdir()) == [
        "folder of JAX",
        "new-cache",
        "thesis.tex",
    ]
    assert jax.config.jax_compilation_cache_dir == str(folder)


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    set_compilation_cache(True)
    assert jax.config.jax_compilation_cache_dir is None

    def no_home():
        raise RuntimeError("no home folder")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(compilation_cache.pathlib.Path, "home", no_home)
    set_compilation_cache(True)
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize(("flags", "kept"), [([], True), (["--no-compilation-cache"], False)])
def test_the_commands_keep_programs_unless_told_not_to(tmp_path, flags, kept):
    assert main(["eval", str(tmp_path), *flags]) == 1  # no workdir
    assert (jax.config.jax_compilation_cache_dir is not None) == kept
    assert (
        jax.config.jax_enable_compilation_cache == kept
    )  # also where JAX's settings name a folder
