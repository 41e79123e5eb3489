"""data: writes a dataset as an .npz file."""

import argparse

from tflottery.lab.data import datasets


def define(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help=", ".join(datasets.SOURCES))
    text = "folder to write to; other commands read it with --data_dir"
    parser.add_argument("--to", metavar="FOLDER", required=True, help=text)
    text = "folder of TensorFlow Datasets that holds it now"
    parser.add_argument("--data_dir", metavar="DIR", help=text)


def data(arguments: argparse.Namespace) -> None:
    """Writes a dataset as NAME.npz, to read it without TensorFlow."""
    data_dir = arguments.data_dir
    print(datasets.save_npz(arguments.name, arguments.to, data_dir=data_dir))
