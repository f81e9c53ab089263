"""Metadata of comm_lopt; settings of the tools are in pyproject.toml."""

import pathlib

from setuptools import find_packages, setup

TFDS = [
    # Not tensorflow-cpu: beside a TensorFlow that is there already it would overwrite its files.
    "tensorflow>=2.16",
    "tensorflow-datasets>=4.9",  # holds the data sets of upstream's own tasks
    "tensorboard>=2.16",  # upstream's summaries go through Flax, which asks for it
    "importlib_resources",  # TFDS imports it, and declares it for old Pythons alone
]
TEST = [
    "pytest>=9",
    "pytest-xdist>=3.8",  # the suite uses both cores
    "ruff>=0.6",
    "mypy>=1.11",
    "uv>=0.8",  # resolves the pinned files and the lowest versions, and builds the wheel
]
# Vega-Lite draws SVG, which a style sheet makes dark and which prints sharply, in 0.9 MB a page;
# Plotly takes 4.7 MB, and Bokeh paints on a canvas. This one brings its scripts without a network.
REPORT = ["vl-convert-python>=1.9"]
HUB = ["huggingface_hub>=1.0"]  # publishes and reads thetas on the Hugging Face hub
FUZZ = ["atheris>=2.3"]  # guided by coverage; `make test-reliability` uses it
DOCS = [
    "zensical>=0.0.70",  # what the makers of mkdocs-material, which ends in 2027, go on with
    "mkdocstrings[python]>=1.0",
]

setup(
    name="comm-lopt",
    version="0.1.0",
    description="Learned global optimizers for communication-efficient training "
    "(a learned_optimization plugin)",
    long_description=pathlib.Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["comm_lopt", "comm_lopt.*"]), "comm_lopt.gin_files"],
    # The gin files stand at the top of the repository and are installed inside the package.
    package_dir={"comm_lopt.gin_files": "gin"},
    package_data={
        "comm_lopt": ["py.typed"],
        "comm_lopt.gin_files": ["**/*.gin"],
        "comm_lopt.pretrained": ["*/*.safetensors", "*/*.json", "*/*.gin", "*/*.md"],
        "comm_lopt.report": ["*.css", "*.js"],
        "comm_lopt.upstream": ["gin/*/*.gin"],
    },
    # Upstream itself, learned-optimization==0.0.1, is installed with --no-deps: its pins cannot
    # be met today. What it imports is listed here.
    install_requires=[
        "absl-py>=2.1",
        "chex>=0.1.91",
        "dm-haiku>=0.0.16",
        "drjax>=0.1.4",  # maps workers, with or without a mesh
        "filelock>=3.22",  # one process at a time makes a data set or a run
        "flax>=0.12.3",
        "gin-config>=0.5",
        "jax>=0.9",
        "matplotlib>=3.9",
        "numpy>=2.1",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.11.31",  # checkpoints that are whole or not there
        "safetensors>=0.5",  # theta as data: arrays and a JSON header
        "scikit-learn>=1.6",  # bundles the digits
        "tensorboardX>=2.6.2",  # TensorBoard events without TensorFlow
        "tqdm>=4.67",
        "typing_extensions>=4.12",  # upstream imports it
    ],
    extras_require={
        "tfds": TFDS,
        "report": REPORT,
        "hub": HUB,
        "test": TEST,
        "fuzz": FUZZ,
        "docs": DOCS,
    },
    entry_points={"console_scripts": ["comm-lopt=comm_lopt.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
