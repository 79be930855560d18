"""Which folders are packages; everything else about the distribution is in pyproject.toml.

The recipes in configs/ are installed as `usg_psg.configs`, which a search for packages cannot express. The compiled
deformable attention is a distribution of its own (mask2former_ops/setup.py), so that installing this one never needs a
compiler.
"""

import sys

from setuptools import find_packages, setup

packages = [*find_packages(include=("usg_psg", "usg_psg.*")), "mask2former_ops", "usg_psg_cli"]
if "editable_wheel" in sys.argv:
    # A path instead of setuptools' finder, before which Python, started beside a clone called usg_psg, would take that
    # folder for the package. Recipes are found in the repository.
    setup(packages=packages, package_dir={"": "."})
else:
    setup(packages=[*packages, "usg_psg.configs"], package_dir={"usg_psg.configs": "configs"})
