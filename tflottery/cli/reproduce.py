"""reproduce: runs a published experiment."""

import argparse

from tflottery.cli import flags
from tflottery.cli.report import print_report_of


def define(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument
    flag(
        "name",
        metavar="NAME",
        help="lenet_mnist or conv_cifar10 (Frankle & Carbin 2019), sparse_transfer "
        "(Mehta 2019), sparse_transfer_one_shot or lenet_transfer; cost_accuracy or "
        "cost_accuracy_conv (what a ticket costs, and what else the same training "
        "buys); with the preset paper also sparse_transfer_norb and "
        "sparse_transfer_vgg19",
    )
    text = "minutes, hours on a few cores (the default), or as published"
    flag("--preset", choices=["smoke", "cpu", "paper"], default="cpu", help=text)
    flag("--seeds", type=flags.at_least(1), metavar="N", help="number of seeds")
    flag("--data_dir", metavar="DIR", help="folder of the datasets, unless smoke")
    flag("--run_dir", metavar="DIR", help="folder to use; default: runs/NAME-PRESET")
    text = "local (the default), or ray with one task per cell"
    flag("--executor", metavar="NAME", default="local", help=text)


def reproduce(arguments: argparse.Namespace) -> None:
    """Runs a published experiment with its control arms, and reports it.

    Run again, it resumes; with more --seeds, it adds them.
    """
    from tflottery.lab.experiment import designs, run

    name, preset = arguments.name, arguments.preset
    results = run.run(
        designs.design(name, preset),
        seeds=arguments.seeds,
        data_dir=arguments.data_dir,
        run_dir=arguments.run_dir or f"runs/{name}-{preset}",
        executor=arguments.executor,
    )
    print_report_of(results.parent)
