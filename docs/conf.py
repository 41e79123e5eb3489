"""The site: `python -m sphinx -W docs site`, after `pip install -e '.[docs]'`."""

import os
import re

import tflottery

project = "tflottery"
author = copyright = "tflottery contributors"
version = release = tflottery.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "literal"

# Every notebook runs in the build, in a folder of its own. The kernels inherit this.
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_show_tb = True
nb_render_markdown_format = "myst"
nb_merge_streams = True  # A loop that prints makes one output.
nb_output_stderr = "remove"  # The logs of TensorFlow.

myst_heading_anchors = 3

autodoc_member_order = "bysource"
napoleon_use_ivar = True
python_maximum_signature_line_length = 72

html_theme = "sphinx_book_theme"
html_title = "tflottery"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navbar_persistent": [],
    "show_toc_level": 2,
    "use_download_button": False,
}


def _restructured(app, what, name, obj, options, lines):
    """Turns the fences and bars of a docstring's Markdown into reStructuredText."""
    text = re.sub(
        r"```python\n(.*?)```",
        lambda code: "::\n\n" + re.sub("(?m)^(?=.)", "    ", code[1]),
        "\n".join(lines),
        flags=re.DOTALL,
    )
    lines[:] = text.replace("|", r"\|").split("\n")


def setup(app):
    app.connect("autodoc-process-docstring", _restructured, priority=400)
