"""Installs tflottery: `pip install -e .` in a checkout, or from a wheel."""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent

PLOTS = ["matplotlib>=3.8"]
JAX = ["jax>=0.4.30"]
RAY = ["ray>=2.30"]
REMOTE = ["s3fs>=2024.1"]
EDGE = ["ai-edge-litert>=2.0"]

setuptools.setup(
    name="tflottery",
    version="0.1.0",
    description="Lottery tickets in Keras: find, transfer and export sparse networks.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=setuptools.find_packages(include=["tflottery", "tflottery.*"]),
    package_data={"tflottery": ["py.typed"]},
    install_requires=[
        "absl-py>=1.4",
        "etils[epath]>=1.7",
        # tensorflow-datasets 4.9.10 imports it without declaring it.
        "importlib_resources>=6",
        "keras>=3.13",
        "numpy>=1.26",
        "rich>=13",
        "safetensors>=0.5",
        "scikit-learn>=1.4",
        "tensorflow>=2.20",
        "tensorflow-datasets>=4.9.7",
        "tensorflow-model-optimization>=0.8",
        "tf-keras>=2.20",
    ],
    extras_require={
        "plots": PLOTS,
        "jax": JAX,
        "ray": RAY,
        "edge": EDGE,
        "remote": REMOTE,
        "test": [
            *PLOTS,
            *JAX,
            "hypothesis>=6.100",
            "pandas>=2",
            "pytest>=8",
            "pytest-xdist>=3.6",
        ],
    },
    entry_points={"console_scripts": ["tflottery = tflottery.cli.main:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
