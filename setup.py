"""Adds the folder `experiments` to the packages of pyproject.toml, as `jaxseg/experiments`.

Setuptools can find packages or be given their folders; pyproject.toml has no way to ask for both.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["jaxseg", "jaxseg.*"]), "jaxseg.experiments"],
    package_dir={"jaxseg.experiments": "experiments"},
)
