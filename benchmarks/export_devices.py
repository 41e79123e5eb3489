"""What do tickets take on microNPUs and microcontrollers, by the vendors' own tools?

    python benchmarks/export_devices.py --data_dir DIR --networks lenet,resnet20

Needs `pip install 'tflottery[npu,micro]'`. Finds a ticket as export_sizes.py does, with
the same flags. Prints what Vela and TFLite Micro say of its files, beside unpruned or
dense ones, and the accuracy on the whole test set; the same of the converter's own
int8 file.
"""

import pathlib
import tempfile

import export_sizes
from absl import app

import tflottery

EXPORTS = [
    ("npu", {}),
    ("npu", {"clusters": 16}),
    ("npu", {"clusters": 8}),
    ("micro", {}),
    ("int8", {}),
]


def main(_):
    for name in export_sizes.NETWORKS.value:
        model, x, y = export_sizes.ticket(name)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.tflite"
            plain = export_sizes.converted(model, "int8", x[:256], sparse=False)
            path.write_bytes(plain)
            right = export_sizes.accuracy(path, x, y)
            print(f"{name}, the converter's int8: {right:.2%}, {len(plain):,} bytes")
            for device in ("ethos-u55-128", "ethos-u85-256"):
                print(f"  {tflottery.benchmark_tflite(path, on=device)}", flush=True)
            for target, options in EXPORTS:
                report = tflottery.export_tflite(
                    model,
                    path,
                    target=target,
                    representative_data=x[:256],
                    tolerance=1,  # the accuracy tells more
                    **options,
                )
                right = export_sizes.accuracy(path, x, y)
                print(
                    f"{name}, {target} {options}: {right:.2%}, {report.bytes:,} bytes"
                )
                for device in report.devices.values():
                    print(f"  {device.device}: {device.file}")
                    print(f"    beside: {device.against}", flush=True)


if __name__ == "__main__":
    app.run(main)
