"""The site builds from the pages without a warning."""

import importlib.util
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("sphinx") is None, reason="needs the extra docs (Sphinx)"
)
def test_the_site_builds_without_a_warning(tmp_path):
    pages = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", pages, ignore=shutil.ignore_patterns("_build"))
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "--fail-on-warning", "--keep-going", "docs", "site"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    names = {page.relative_to(pages).with_suffix(".html") for page in pages.rglob("*.md")}
    assert all((tmp_path / "site" / name).is_file() for name in names)
