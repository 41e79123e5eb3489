"""Takes a ticket from CIFAR-10 to FashionMNIST: a new head, the same masks.

python examples/transfer_cifar10.py --data_dir ~/tensorflow_datasets

Without --data_dir it takes the digits 0 to 4 to the digits 5 to 9, in a minute.
"""

import argparse

import tflottery
from tflottery.lab import training
from tflottery.lab.data import datasets
from tflottery.lab.experiment import bench, designs

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data_dir", help="Where CIFAR-10 and FashionMNIST are.")
data_dir = parser.parse_args().data_dir

# What the network, the images and the training are: data, as in the lab's recipes.
design = designs.design("sparse_transfer", "cpu" if data_dir else "smoke")
recipe, target = design.source, design.target


def load(recipe, classes):
    """Returns the images of a task: adapted, scaled, and split for validation."""
    images = datasets.load(recipe.dataset, data_dir=data_dir)
    images = bench.limited(bench.with_classes(images, classes), design.images)
    return images, recipe.arrays(images, seed=0)


# 1. A ticket of the source task.
images, source = load(recipe, design.source_classes)
model = training.compile_model(recipe.build(images, seed=0), recipe)
settings = recipe.search_settings(len(source.train[0])) | {"target_sparsity": 0.8}
model = tflottery.find_ticket(
    model,
    source.train,
    validation_data=source.validation,
    seed=0,
    **settings | {"rounds": 3},
    select="last",
)

# 2. The same network on the target task: as it is, and with its weights drawn anew.
images, task = load(target, design.target_classes)
fresh = tflottery.controls.weights_of(recipe.build(images, seed=1))
reinitialized = tflottery.controls.reinitialized(model.ticket, fresh, seed=1)
for name, ticket in (("ticket", model.ticket), ("reinitialized", reinitialized)):
    student = tflottery.transfer_ticket(
        ticket, images.num_classes, backbone=recipe.build(images), seed=0
    )
    training.compile_model(student, target)
    epochs = target.epochs(len(task.train[0]))
    student.fit(*task.train, epochs=epochs, validation_data=task.validation, verbose=0)
    accuracy = student.evaluate(*task.test, return_dict=True, verbose=0)["accuracy"]
    print(
        f"{name}: {100 * student.ticket.density:.1f} % of the weights, "
        f"test accuracy {100 * accuracy:.1f} %"
    )
