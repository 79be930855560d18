"""Which folders are packages; everything else about the distribution is in pyproject.toml.

The recipes in configs/ are installed as `usg_psg.configs`, which a search for packages cannot express. The compiled
deformable attention is a distribution of its own (mask2former_ops/setup.py), so that installing this one never needs a
compiler.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=("usg_psg", "usg_psg.*")), "mask2former_ops", "usg_psg_cli", "usg_psg.configs"],
    package_dir={"usg_psg.configs": "configs"},
)
