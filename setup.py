"""The packages of the wheel, found rather than listed; everything else is in `pyproject.toml`."""

from setuptools import find_packages, setup

setup(
    script_name="setup.py",  # keeps this file out of offcomp.app, whose folder is the top of the clone
    packages=["offcomp.app", *find_packages(include=["offcomp", "offcomp.*"])],
)
