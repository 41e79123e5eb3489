"""reproduce: runs a published experiment."""

import argparse
import os
import runpy
from typing import Any

from tflottery.cli import flags
from tflottery.cli.report import print_report_of


def define(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument
    flag(
        "name",
        metavar="NAME",
        help="a file of your own, DESIGN.py, that sets `design`; or lenet_mnist, "
        "conv_cifar10, sparse_transfer, few_shot_transfer, sparse_transfer_one_shot, "
        "lenet_transfer, cost_accuracy or cost_accuracy_conv; with the preset paper "
        "also sparse_transfer_norb and sparse_transfer_vgg19",
    )
    text = "smoke (minutes), cpu (hours, the default), gpu or paper (as published)"
    known = ["smoke", "cpu", "gpu", "paper"]
    flag("--preset", choices=known, metavar="NAME", default="cpu", help=text)
    flag("--seeds", type=flags.at_least(1), metavar="N", help="number of seeds")
    flag("--data_dir", metavar="DIR", help="folder of the datasets, unless smoke")
    flag("--run_dir", metavar="DIR", help="folder to use; default: runs/NAME-PRESET")
    text = "print the searches, cells, steps and time it takes"
    flag("--dry_run", action="store_true", help=text)
    text = "local (the default), ray, or stacked: side by side on JAX (that of gpu)"
    flag("--executor", metavar="NAME", help=text)


def reproduce(arguments: argparse.Namespace) -> None:
    """Runs a published experiment with its control arms, and reports it.

    Run again, it resumes; with more --seeds, it adds them.
    """
    from tflottery.lab.experiment import cost, designs, run

    name, preset = arguments.name, arguments.preset
    design = _own(name) if name.endswith(".py") else designs.design(name, preset)
    options = {"seeds": arguments.seeds, "data_dir": arguments.data_dir}
    if arguments.dry_run:
        print(cost.cost(design, **options))
        return
    results = run.run(
        design,
        **options,
        run_dir=arguments.run_dir or f"runs/{design.name}-{design.preset}",
        executor=arguments.executor,
    )
    print_report_of(results.parent)


def _own(path: str) -> Any:
    """Runs a file of the user's own, and returns the design that it sets."""
    from tflottery.lab.experiment.design import Design

    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no design at {path}.")
    found = runpy.run_path(path).get("design")
    if not isinstance(found, Design):
        raise ValueError(
            f"{path} must set `design` to a tflottery.lab.experiment.design.Design. "
            f"Received: design={found!r}"
        )
    return found
