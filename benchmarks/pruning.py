"""Prints the time and the extra memory of pruning ResNet-50's weights globally.

    python benchmarks/pruning.py [--repeats N]

The weights have the shapes of the 54 kernels of ResNet-50, 25.5 million in float32.
Memory is the peak that NumPy asks for in `pruning.prune`, by tracemalloc, without the
scores that it is given and with them; it is a multiple of the weights' bytes.
"""

import argparse
import time
import tracemalloc

import numpy as np

from tflottery.core import criteria, masks, pruning


def resnet50(width: int = 64) -> dict[str, tuple[int, ...]]:
    """Returns the kernels' shapes by path; `width` is 64 in the paper."""
    shapes: dict[str, tuple[int, ...]] = {"conv1/kernel": (7, 7, 3, width)}
    channels = width
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = width * 2**stage
        for block in range(blocks):
            name = f"stage{stage}/block{block}"
            shapes[f"{name}/conv1/kernel"] = (1, 1, channels, inner)
            shapes[f"{name}/conv2/kernel"] = (3, 3, inner, inner)
            shapes[f"{name}/conv3/kernel"] = (1, 1, inner, 4 * inner)
            if block == 0:
                shapes[f"{name}/shortcut/kernel"] = (1, 1, channels, 4 * inner)
            channels = 4 * inner
    shapes["head/kernel"] = (channels, 1000)
    return shapes


def measure(width: int, *, trace: bool) -> tuple[float, float, float]:
    """Returns the seconds, and the peak memory without and with the scores.

    Memory is in multiples of the weights' bytes; tracing it costs time.
    """
    rng = np.random.default_rng(0)
    weights = {
        path: rng.standard_normal(shape, np.float32)
        for path, shape in resnet50(width).items()
    }
    size = sum(w.nbytes for w in weights.values())
    dense = masks.ones(weights)
    if trace:
        tracemalloc.start()
    scores = criteria.magnitude(weights, weights)
    given = tracemalloc.get_traced_memory()[0] if trace else 0
    start = time.perf_counter()
    result = pruning.prune(scores, dense, 0.2)
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1] if trace else 0
    tracemalloc.stop()
    assert masks.kept(result) == round(0.8 * masks.size(dense))
    return seconds, (peak - given) / size, peak / size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    count = sum(int(np.prod(shape)) for shape in resnet50().values())
    times = [measure(64, trace=False)[0] for _ in range(repeats)]
    _, extra, with_scores = measure(64, trace=True)
    print(f"weights            {count:,} in {len(resnet50())} layers")
    print(f"seconds            {min(times):.2f} best of {repeats} (at most 2)")
    print(f"memory             {extra:.2f}x the weights (at most 3)")
    print(f"memory with scores {with_scores:.2f}x the weights (at most 3)")


if __name__ == "__main__":
    main()
