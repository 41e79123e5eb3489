"""Reports: what they say, that nothing in them is code, and that they open."""

import contextlib
import html.parser
import itertools
import json
import math
import os
import pathlib
import re
import select
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tflottery.core import config, files
from tflottery.core.records import Round
from tflottery.lab.report import figures
from tflottery.lab.report import results as results_lib
from tflottery.lab.report import write as report_lib
from tflottery.search import run_dir as run_dir_lib
from tflottery.showing import drawing
from tflottery.ticket import Ticket

EVIL = "<script>alert(1)</script>"
DENSITIES = [0.8**number for number in range(1, 14)]
NOISE = (-0.0008, 0.0, 0.0008)
ARMS = {
    # Arm, start: the difference to dense at 6.9 % and above, and below.
    ("ticket", "trained"): (0.004, -0.02),
    ("ticket", "initial"): (-0.013, -0.03),
    ("randomly_masked", "fresh"): (-0.03, -0.06),
    ("reinitialized", "fresh"): (-0.02, -0.05),
}


def rows(seeds=3, layer="stem/kernel", **more):
    """Returns cells where only θT wins, down to 0.8 ** 12 = 6.9 %, by 0.4 points."""
    found = []
    for seed in range(seeds):
        dense = 0.9 + 0.01 * seed
        arms = [("dense", "trained", 1.0, 0.0, 0)] + [
            (arm, start, density, above if density > 0.06 else below, number)
            for (arm, start), (above, below) in ARMS.items()
            for number, density in enumerate(DENSITIES, 1)
        ]
        for arm, start, density, shift, number in arms:
            metric = dense + shift + (NOISE[seed] if number else 0)
            found.append(
                {
                    "experiment": "sparse_transfer",
                    "arm": arm,
                    "weights": start,
                    "density": density,
                    "sparsity": 1 - density,
                    "seed": seed,
                    "regime": "fine_tuned",
                    "head": "linear",
                    "dataset": "fashion_mnist",
                    "metric": metric,
                    "val_metric": metric + 0.002,
                    "steps": 500,
                    "steps_to_best": 300 + 10 * number + seed,
                    "seconds": 1.5,
                    "source_round": number,
                    "density_per_layer": {layer: density, "last/kernel": density / 2},
                }
                | more
            )
    return found


def test_accuracy_is_drawn_over_cost_in_a_panel_for_each_density():
    found = [row | {"cost": 1 + row["source_round"]} for row in rows()]
    (setting,) = results_lib.settings(results_lib.read(found))
    picture = figures.cost(setting)
    assert picture is not None
    assert "6.9 % left: ticket θT 91.4 for 13, " in picture.alt
    assert picture.svg.count(b"<!-- 6.9 % left -->") == 1
    (setting,) = results_lib.settings(results_lib.read(rows()))
    assert figures.cost(setting) is None


def test_a_method_far_below_the_others_is_an_arrow_that_stretches_no_axis():
    found = [row | {"cost": 1 + row["source_round"]} for row in rows()]
    for row in found:
        if row["arm"] == "randomly_masked":
            row["metric"] = 0.1
    (setting,) = results_lib.settings(results_lib.read(found))
    picture = figures.cost(setting)
    assert picture is not None
    arrows = picture.svg.count("<!-- ↓ 10 -->".encode())
    assert arrows == picture.svg.count(b" left -->") > 0


def header(**more):
    overlap = [
        [a, b, d, d] for d in DENSITIES for a, b in itertools.combinations(range(3), 2)
    ]
    return {
        "experiment": "sparse_transfer",
        "command": "tflottery reproduce sparse_transfer --preset=cpu",
        "versions": {"keras": "3.13.0"},
        "preset": "cpu",
        "seeds": [0, 1, 2],
        "recipe": {"source": {"name": "mehta_resnet18"}},
        "tolerance": 0.005,
        "mask_overlap": overlap,
    } | more


def experiment(folder: pathlib.Path, found=None, **more) -> pathlib.Path:
    results = header(**more) | {"rows": rows() if found is None else found}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def search(folder: pathlib.Path, layer="dense", monitor="val_accuracy", finish=True):
    """Writes a run directory of three rounds, the ticket that of round 2."""
    settings = config.LotteryConfig(epochs=3, monitor=monitor, seed=7)
    manifest = {"config": settings.to_dict(), "architecture": "ab12", "training": {}}
    run = run_dir_lib.Run(folder, manifest)
    records, ticket = [], None
    for number, kept in enumerate((8, 4, 2)):
        mask = np.arange(8) < kept
        accuracy = 0.9 + 0.01 * number
        records.append(
            Round(
                round=number,
                sparsity=1 - kept / 8,
                density_per_layer={f"{layer}/kernel": kept / 8},
                metrics={"loss": 0.5, monitor: accuracy},
                history={"loss": [1.0, 0.5], monitor: [0.5, accuracy]},
                steps=20,
                seconds=1.25,
            )
        )
        weights = {f"{layer}/kernel": np.ones(8, np.float32)}
        ticket = Ticket(
            masks={f"{layer}/kernel": mask},
            initial=weights,
            rewind=weights,
            trained=weights,
            config=settings,
            monitor=monitor,
            rounds=records,
            round=number,
            versions={"keras": "3.13.0"},
        )
        run.save_round(ticket)
    if finish:
        run.finish(ticket)
    return folder


class Reader(html.parser.HTMLParser):
    """Collects the tags, the attributes and the text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(page.partition("</head>")[2])
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def read(run_dir: pathlib.Path) -> Reader:
    path = report_lib.report(run_dir)
    assert path == run_dir / "report.html"
    return Reader(path.read_text(encoding="utf-8"))


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves figures empty where a test is about words, as drawing takes long."""

    def draw(plot, *, alt, caption, height=0):
        return drawing.Picture(svg=b"", onto=plot, alt=alt, caption=caption)

    monkeypatch.setattr(drawing, "draw", draw)


def test_an_experiments_report_says_what_it_came_to(tmp_path):
    page = read(experiment(tmp_path))
    for text in (
        "The ticket with 6.9 % of the weights beats dense by 0.4 ± 0.2 points.",
        "ticket θ0: No ticket reaches dense: the ticket with 80.0 % of the weights, "
        "the best on validation, is 1.3 ± 0.2 points below.",
        "tflottery reproduce sparse_transfer --preset=cpu",
        "keras 3.13.0",
        "seeds 0, 1, 2",
        "All of recipe",
        "159 cells, one trained network each",
    ):
        assert text in page.text
    # Accuracy, difference, steps, layers, overlap.
    alts = [value for name, value in page.attributes if name == "alt"]
    assert len(alts) == page.tags.count("img") == 5
    assert "ticket θT from 91.4 at 80.0 % to 89 at 5.5 %" in alts[0]
    assert alts[3] == "Weights left per layer in percent: stem 6.87, last 3.44."


def test_the_arms_stand_beside_the_ticket_at_its_density(tmp_path, undrawn):
    page = read(experiment(tmp_path))
    # θT is 0.4 points above dense and 3.4 above the random masks, seed by seed.
    assert re.search(
        r"ticket θT 91\.40 ± 2\.\d\d 421 ± 2 \+0\.40 ± 0\.20 beats random mask|"
        r"ticket θT 91\.40 ± 2\.\d\d 421 ± 2 \+0\.40 ± 0\.20 beats ticket θ0",
        page.text,
    )
    assert re.search(r"random mask .{,40}-3\.00 ± 0\.20 falls short \+3\.40", page.text)


def test_with_one_seed_nothing_is_claimed(tmp_path, undrawn):
    page = read(experiment(tmp_path, rows(seeds=1), seeds=[0]))
    assert "1 seed: no interval. The ticket with 6.9 % of the weights" in page.text
    for claim in ("beats", "ties", "falls short", "±"):
        assert claim not in page.text


def test_what_failed_or_is_missing_is_said(tmp_path, undrawn):
    found = rows()
    ticket = [
        row for row in found if (row["arm"], row["weights"]) == ("ticket", "trained")
    ]
    at = {(round(row["density"], 3), row["seed"]): row for row in ticket}
    at[0.069, 0]["metric"] = math.nan
    at[0.086, 1] |= {"metric": None, "failure": "loss is <nan>"}
    found.remove(at[0.107, 2])
    page = read(experiment(tmp_path, found, seeds=[0, 1, 2, 3]))
    assert "Failed cells: 2 of 158." in page.text
    assert "Missing pairs: 1." in page.text
    assert "loss is <nan>" in page.text
    assert "3 of 4 seeds have results so far" in page.text
    # The smallest density that is whole.
    assert "The ticket with 13.4 % of the weights beats dense" in page.text


def test_differences_without_spread_are_said(tmp_path, undrawn):
    found = rows()
    dense = {row["seed"]: row["metric"] for row in found if row["arm"] == "dense"}
    for row in found:
        if row["arm"] == "reinitialized":
            row["metric"] = dense[row["seed"]] - 0.25
    page = read(experiment(tmp_path, found))
    assert (
        "No spread: an arm at one density differs from dense by the same" in page.text
    )
    assert "no claim (13 of 52)" in page.text


@pytest.mark.slow
def test_settings_are_reported_apart(tmp_path, undrawn):
    page = read(experiment(tmp_path, rows() + rows(regime="frozen", head="two_layer")))
    assert page.tags.count("img") == 9
    assert "fine-tuned, linear head, ticket θ0:" in page.text
    assert "frozen, two-layer head, ticket θT: The ticket with 6.9 %" in page.text


def test_results_without_dense_or_without_rows_still_make_a_report(tmp_path, undrawn):
    bare = [row for row in rows() if row["arm"] != "dense"]
    page = read(experiment(tmp_path, bare))
    assert "Nothing to compare yet" in page.text
    assert "Without a dense network, nothing is compared." in page.text
    assert "Nothing to compare yet" in read(experiment(tmp_path, [])).text


def test_a_searchs_report_says_what_it_came_to(tmp_path):
    page = read(search(tmp_path))
    for text in (
        "The ticket keeps 25.0 % of the weights, with val_accuracy 0.92 "
        "(+0.0200 to dense).",
        "1 seed: no interval",
        "Round 2 of 2 was chosen",
        "tflottery.find_ticket(model, ds, epochs=3, monitor='val_accuracy', seed=7)",
        "2 25.00 +0.0200 0.9200 0.5000 20 1.2",
        "keras 3.13.0",
    ):
        assert text in page.text
    assert page.tags.count("img") == 3


def test_a_search_under_way_has_a_report(tmp_path):
    page = read(search(tmp_path, finish=False))
    assert "The search is under way: 3 rounds are finished." in page.text
    (tmp_path / "new").mkdir()
    run_dir_lib.Run(tmp_path / "new", {"config": config.LotteryConfig().to_dict()})
    assert "No round is finished yet." in read(tmp_path / "new").text


@pytest.mark.slow
def test_what_comes_from_a_run_is_never_code(tmp_path):
    found = rows(layer=f"{EVIL}/kernel", regime=EVIL, failure=None)
    found[0]["failure"] = found[1]["arm"] = f'"><img src=x onerror=alert(1)>{EVIL}'
    versions = {EVIL: EVIL, "\ud800": "\x00 & $\\frac{x"}
    page = read(
        experiment(tmp_path, found, versions=versions, command=EVIL, experiment=EVIL)
    )
    assert set(page.tags).isdisjoint({"script", "iframe", "object", "link", "a"})
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    sources = [value for name, value in page.attributes if name == "src"]
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    for text in (f"{EVIL}/kernel", f"command {EVIL}", '"><img src=x onerror=', "? �"):
        assert text in page.text
    folder = tmp_path / "search"
    page = read(search(folder, layer=f"{EVIL}$x\u4e00", monitor=EVIL))
    assert "script" not in page.tags
    assert f"{EVIL}$x\u4e00/kernel" in page.text


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither results.json.* nor run.json"):
        report_lib.report(tmp_path)
    (tmp_path / "experiment.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="experiment that is not finished"):
        report_lib.report(tmp_path)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "must hold an object with `rows`"),
        ({"header": 1, "rows": []}, "`header` must be an object"),
        ({"rows": [{"arm": "dense"}]}, r"rows\[0\].*`density` must be a number"),
        ({"mask_overlap": [[0, 1, 2]], "rows": []}, "`mask_overlap` must be a list"),
    ],
)
def test_damaged_results_are_an_error_that_names_the_file(tmp_path, results, message):
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(files.FileError, match=f"results.json is not .*{message}"):
        report_lib.report(tmp_path)


def test_a_search_that_does_not_say_how_is_an_error(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(
        files.FileError, match=r"run.json does not describe a search.*'config'"
    ):
        report_lib.report(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"paths": 5},
            "`paths` must be a list in which each item is a string. Received: paths=5",
        ),
        (
            {"paths": [[1]]},
            "`paths` must be a list in which each item is a string. "
            "Received: paths=[[1]]",
        ),
        (
            {"versions": 5},
            "`versions` must be a dict in which each value is a string, or None. "
            "Received: versions=5",
        ),
        ({"command": [1]}, "`command` must be a string. Received: command=[1]"),
    ],
)
def test_a_manifest_of_other_kinds_is_an_error(tmp_path, changes, message):
    manifest = json.loads((search(tmp_path) / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(manifest | changes))
    with pytest.raises(files.FileError) as caught:
        report_lib.report(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'run.json'} does not describe a search: {message}"
    )


def change_round(folder, **changes):
    path = folder / "rounds/001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("value", [1e308, math.inf, math.nan])
def test_a_metric_that_no_axis_can_show_is_left_out_of_the_figures(tmp_path, value):
    change_round(
        search(tmp_path),
        metrics={"loss": 0.5, "val_accuracy": value},
        history={"loss": [0.5], "val_accuracy": [value, -value]},
    )
    assert read(tmp_path).tags.count("img") == 3


def test_a_density_that_is_none_is_an_error(tmp_path):
    change_round(search(tmp_path), density_per_layer={"dense/kernel": math.nan})
    message = (
        "001.json is not the record of a round. `density_per_layer` of a Round must "
        r"be a dict in which each value is a number in \[0, 1\]"
    )
    with pytest.raises(files.FileError, match=message):
        report_lib.report(tmp_path)


@pytest.mark.parametrize(
    "name", ["run.json", "rounds/001.json", "ticket.safetensors", "results.json"]
)
def test_a_pipe_a_device_or_a_huge_file_is_not_read(tmp_path, name):
    path = search(tmp_path) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(files.FileError) as caught:
        report_lib.report(tmp_path)
    assert str(caught.value) == f"{path} is not a regular file, so it is not read."
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(files.FileError, match="is not a regular file, so it is not"):
        report_lib.report(tmp_path)
    path.unlink()
    if name.endswith(".json"):
        with open(path, "wb") as file:
            file.truncate(2**33)
        with pytest.raises(
            files.FileError, match=r"has 8,589,934,592 bytes, but no run"
        ):
            report_lib.report(tmp_path)


def test_without_matplotlib_an_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'tflottery\[plots\]'"):
        report_lib.report(experiment(tmp_path))
    assert not (tmp_path / "report.html").exists()


def test_equal_results_give_equal_files_whatever_the_users_settings(tmp_path):
    import matplotlib

    first = report_lib.report(search(tmp_path)).read_bytes()
    with matplotlib.rc_context({"font.size": 40, "axes.facecolor": "#ff0000"}):
        before = dict(matplotlib.rcParams)
        again = report_lib.report(tmp_path, out=tmp_path / "again.html")
        assert dict(matplotlib.rcParams) == before
    assert again == tmp_path / "again.html"
    assert again.read_bytes() == first


class Chromium:
    """A headless browser, spoken to in its DevTools protocol through two pipes.

    Attributes:
        events: what the browser told unasked, since the last page was opened.
    """

    # Chromium reads at 3 and writes at 4.
    PIPES = (
        "import fcntl, os, sys\n"
        "ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]\n"
        "os.dup2(ends[0], 3), os.dup2(ends[1], 4)\n"
        "os.execv(sys.argv[3], sys.argv[3:])\n"
    )
    FLAGS = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-sync"),
        *("--disable-component-update", "--disable-dev-shm-usage"),
        *("--remote-debugging-pipe", "about:blank"),
    )

    def __init__(self, program: str, profile: pathlib.Path):
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", self.PIPES, str(theirs_in), str(theirs_out)),
                *(program, *self.FLAGS, f"--user-data-dir={profile}"),
            ],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._read, self._number, self._session = b"", 0, None
        self.events: list[dict] = []
        (target,) = [
            found
            for found in self("Target.getTargets")["targetInfos"]
            if found["type"] == "page"
        ]
        attached = self(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params):
        """Returns the browser's answer to one command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> dict:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._from], [], [], 60)
            assert ready, "The browser said nothing for 60 s."
            part = os.read(self._from, 1 << 20)
            assert part, "The browser ended."
            self._read += part
        message, _, self._read = self._read.partition(b"\0")
        answer = json.loads(message)
        if "method" in answer:
            self.events.append(answer)
        return answer

    def open(self, path: pathlib.Path, *, width: int) -> None:
        """Opens a file in a window of so many CSS pixels, and waits for all of it."""
        self.width = width
        self(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 800, "deviceScaleFactor": 1},
            mobile=width < 600,
        )
        for url in ("about:blank", path.as_uri()):
            self.events.clear()
            self("Page.navigate", url=url)
            while "Page.loadEventFired" not in [e["method"] for e in self.events]:
                self._next()

    def evaluate(self, expression: str):
        """Returns what a JavaScript expression comes to in the page."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def faults(self) -> list[str]:
        """Returns what is wrong with the page that is open."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        found = [
            json.dumps(event["params"])
            for event in self.events
            if event["method"] in (*kinds, "Log.entryAdded")
        ]
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]
        found += [f"loads {u}" for u in urls if not u.startswith(("file:", "data:"))]
        found += self.evaluate(
            "[...document.images].filter(i => !i.complete || !i.naturalWidth)"
            ".map(i => 'not drawn: ' + i.alt)"
        )
        wide = self.evaluate("document.documentElement.scrollWidth") - self.width
        return found + ([f"too wide by {wide} pixels"] if wide > 0 else [])

    def close(self) -> None:
        """Ends the browser."""
        with contextlib.suppress(OSError):
            os.write(self._to, b'{"id": 0, "method": "Browser.close"}\0')
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"No browser is installed: none of {', '.join(names)} is found.")
    browser = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module", params=["experiment", "search"])
def written(request, tmp_path_factory):
    """A report with names that are code, and wider than a phone."""
    folder = tmp_path_factory.mktemp(request.param)
    layer = f"{EVIL}a_layer_with_a_name_much_longer_than_a_phone_is_wide{EVIL}"
    if request.param == "search":
        return report_lib.report(search(folder, layer=layer))
    command = "tflottery reproduce sparse_transfer --run_dir=" + "a/" * 60
    # What no font and no SVG can hold.
    found = rows(layer=f"{layer}\x01\ud800$\\frac", regime=EVIL)
    return report_lib.report(experiment(folder, found, command=command))


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_a_report_opens_in_a_browser_without_fault(written, chromium, width):
    chromium.open(written, width=width)
    assert chromium.faults() == []
    assert chromium.evaluate("document.images.length") >= 3
    assert chromium.evaluate("document.scripts.length") == 0
    assert EVIL in chromium.evaluate("document.body.textContent")
    # 8 points in a figure, its smallest letters, are 11 pixels where it is drawn 1:1.
    scale = chromium.evaluate(
        "Math.min(...[...document.images].map(i => i.width / i.naturalWidth))"
    )
    assert scale > 0.75


@pytest.mark.slow
def test_a_faulty_page_is_found_by_the_browser(tmp_path, chromium):
    path = tmp_path / "faulty.html"
    path.write_text(
        "<meta name=viewport content='width=device-width'><img alt=gone src=gone.png>"
        "<div style='width:500px'>wide</div><script>throw Error('thrown')</script>"
    )
    chromium.open(path, width=390)
    faults = " ".join(chromium.faults())
    for fault in ("thrown", "not drawn: gone", "too wide by"):
        assert fault in faults
