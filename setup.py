"""Packages, dependencies and extras; tool settings are in pyproject.toml.

The compiled deformable attention is a distribution of its own (mask2former_ops/setup.py), so that installing this
one never needs a compiler.
"""

from setuptools import find_packages, setup

DETECTRON2 = "detectron2 @ git+https://github.com/facebookresearch/detectron2.git"

setup(
    name="usg_psg",
    version="0.1.0",
    description="Image-only USG-Par: panoptic scene graphs on PSG, as a Detectron2 extension",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=("usg_psg", "usg_psg.*")), "mask2former_ops", "usg_psg.configs"],
    package_dir={"usg_psg.configs": "configs"},
    package_data={
        "usg_psg": [
            "compat/README.md",
            "modeling/openclip_configs/*.json",
            "visualization/assets/*",
        ],
        "usg_psg.configs": ["*/*.yaml"],
        "mask2former_ops": ["csrc/*", "csrc/*/*"],
    },
    install_requires=[
        "torch>=2.4",
        "torchvision",
        "open_clip_torch>=2.24",
        "timm>=1.0.15",
        "fvcore",
        "iopath",
        "yacs",
        "numpy",
        "scipy",
        "pycocotools",
        "opencv-python-headless",
        "pillow",
        "safetensors",
        "matplotlib",
        "networkx",
        "tabulate",
        "termcolor",
        "tensorboard",
        "tqdm",
    ],
    extras_require={
        "detectron2": [DETECTRON2],
        "app": ["gradio>=6"],
        "test": ["pytest", "pytest-timeout", "hypothesis", "tifffile", "playwright", "ruff==0.17.6"],
    },
)
