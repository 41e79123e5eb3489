"""What becomes of every program in tests/making/programs, as docs/programs.md.

    python benchmarks/programs.py [--only NAME]

A program is searched, trained on, saved as a ticket and as a model, transferred and
exported. Each cell is "ok", or the message that came instead. `--only` prints one
program's row.
"""

import os
import pathlib
import sys
import tempfile

from absl import app, flags

ONLY = flags.DEFINE_string("only", None, "One program by name.")

HERE = pathlib.Path(__file__).parent
PAGE = HERE.parent / "docs" / "programs.md"

HEAD = """# Programs

Small programs of many kinds, those of `tests/making/programs`, and what becomes of
each in these steps: `find_ticket`; another `fit`, which must keep pruned weights at
zero; the ticket saved, loaded and applied to the program built again; `model.save`,
Keras' `load_model` and `tflottery.hold`; `transfer_ticket`, for most subclassed
programs with a part as `backbone`; `export_tflite`. A number is that of an error below.

Made by `python benchmarks/programs.py`.

"""


def main(_):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]
    from making.programs import steps
    from making.programs.catalogue import OK, PROGRAMS

    def row(name: str, cells: list[str]) -> str:
        return f"| {' | '.join([name, *cells])} |\n"

    table = row("program", list(steps.STEPS)) + row("---", ["---"] * len(steps.STEPS))
    said: list[str] = []
    for program in PROGRAMS.values():
        for generation in program.generations:
            if ONLY.value not in (None, program.name):
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found = steps.outcomes(
                        program.name, generation, pathlib.Path(folder)
                    )
                except ImportError as error:
                    print(f"{program.name} is left out: {error}")
                    continue
            cells = []
            for step in steps.STEPS:
                text = found.get(step, "-")
                if text not in (OK, "-"):
                    text = " ".join(text.split())
                    if text not in said:
                        said.append(text)
                    text = f"[{said.index(text) + 1}]"
                cells.append(text)
            label = program.name + (" (tf_keras)" if generation == "tf_keras" else "")
            line = row(label, cells)
            print(line, end="", flush=True)
            table += line
    notes = "".join(f"{i}. {text}\n" for i, text in enumerate(said, 1))
    if ONLY.value is None:
        PAGE.write_text(f"{HEAD}{table}\n{notes}", encoding="utf-8")
    else:
        print(notes)


if __name__ == "__main__":
    app.run(main)
