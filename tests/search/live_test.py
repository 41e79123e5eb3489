"""Live: one table that grows in place, in a terminal and in a notebook."""

import sys
import types

import pytest

from tflottery.core.records import Round
from tflottery.search.progress import Progress

PLAN = (1.0, 0.5, 0.25)


def record(number, metric=0.9):
    return Round(
        round=number,
        sparsity=1 - PLAN[number],
        density_per_layer={},
        metrics={"<acc>": metric},
        history={},
        steps=1,
        seconds=1.0,
    )


def shown(progress):
    """Shows a search of three rounds, epoch by epoch."""
    progress.start(PLAN)
    for number in range(3):
        progress.live.epoch(number, 1, 2, {"loss": 0.5})
        progress.add(record(number, 0.9 - 0.1 * number), "<acc>")


@pytest.fixture
def notebook(monkeypatch):
    """What a notebook was given to show: one list for each place."""
    places = []

    def display(bundle, *, raw, display_id):
        places.append([bundle])
        update = lambda bundle, raw: places[-1].append(bundle)  # noqa: E731
        return types.SimpleNamespace(update=update)

    module = types.ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return places


def test_a_notebook_has_one_table_with_a_curve_that_grows(notebook):
    progress = Progress("auto")
    assert progress.inside_round == 0
    shown(progress)
    [updates] = notebook
    assert len(updates) == 6
    assert "round 0, epoch 1 of 2: loss 0.5000" in updates[0]["text/html"]
    assert [bundle["text/html"].count("<tr>") for bundle in updates] == [
        1,
        2,
        2,
        3,
        3,
        4,
    ]
    last = updates[-1]["text/html"]
    assert last.count("<circle") == 3
    assert "&lt;acc&gt;: 0.7 to 0.9, dense 0.9" in last
    assert "<acc>" not in last
    assert "-0.2000" in updates[-1]["text/plain"]
    progress.live.stop()
    assert "epoch" not in updates[-1]["text/html"]


def test_a_terminal_has_one_table_that_is_left_at_the_end(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = Progress("auto")
    shown(progress)
    assert progress.live._screen.is_started
    progress.live.stop()
    assert not progress.live._screen.is_started
    end = capsys.readouterr().out.split("to dense")[-1]
    assert [line.split()[0] for line in end.splitlines() if "/2" in line] == [
        *("0/2", "1/2", "2/2")
    ]
    assert "epoch" not in end


def test_nothing_is_redrawn_where_nobody_watches_or_lines_are_asked_for(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert Progress("auto").live is None
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert Progress(1).live is Progress(2).live is None
    assert Progress(1).inside_round == 1
