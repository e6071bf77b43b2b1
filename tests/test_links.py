"""Every relative link and image of the pages exists, and CITATION.cff parses."""

import re

import pytest
import yaml

from tests.conftest import ROOT
from tests.docs.pages import PAGES


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_relative_links_exist(page):
    prose = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.DOTALL | re.M)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    files = [t.split("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)]
    missing = [name for name in files if not ((ROOT / page).parent / name).exists()]
    assert not missing


def test_the_citation_has_the_fields_that_its_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
