"""`ila control` and `ila reproduce`: exit codes, rows beside the paper's, pictures as files."""

import re
from collections import Counter
from math import comb
from pathlib import Path

import pytest

from flows.actions.reproduce import _save
from flows.plan import paper_recipe
from flows.results.reproduction import Result
from ila_core.report.paper.published import MILESTONES, SEEDS

pytestmark = pytest.mark.slow

FIGURES = ("table2", "fig1", "fig2", "fig3", "fig4")


@pytest.fixture(scope="module")
def studied(finished, tmp_path_factory):
    """A home in which `smoke` has run, and its control and study will: gates of fewer batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper_recipe, "GATE_BATCHES", 4)
        yield finished.copied(tmp_path_factory.mktemp("studied") / "home")


def test_the_control_exits_with_3_where_the_noise_is_not_found(studied):
    passed = studied.json("control", "smoke", "--min-auc", "0")
    assert passed["passed"] is True and passed["scorer"] == "ila"
    assert list(passed["datasets"]) == ["terse", "instruct", "dialogue"]
    for found in passed["datasets"].values():
        assert list(found["aucs"]) == ["0", "1"]
        assert found["mean"] == pytest.approx(sum(found["aucs"].values()) / 2)
        assert found["low"] <= found["mean"] <= found["high"]
    assert any(found["mean"] < 1 for found in passed["datasets"].values())
    code, out, err = studied.ended("control", "smoke", "--min-auc", "1")
    assert code == 3, err
    assert "below 1" in out and "AUC of `ila` finding them (chance 0.5)" in out
    assert "Traceback" not in err


def test_every_table_and_figure_stands_beside_the_papers(studied):
    found = studied.json("reproduce", "smoke", *FIGURES)
    assert list(found) == list(FIGURES)
    numbers = {"Jaccard", "chance", "99th pct", "chance in types", "99th pct in types"}
    # One search seed: nothing to compare between those.
    pairs = {"table2": 3, "fig3": 3 * comb(len(SEEDS), 2), "fig4": comb(len(MILESTONES), 2)}
    for name, rows in pairs.items():
        assert len(found[name]["tables"]["rows"]) == rows
        for row in found[name]["tables"]["rows"]:
            assert numbers < set(row)
            theirs = {name: value for name, value in row.items() if name.startswith("paper (")}
            assert theirs and not any(theirs.values())  # of other datasets than the paper's
            assert 0 <= row["Jaccard"] <= 1 and 0 < row["chance"] < row["99th pct"]
    drawn = {"table2": 0, "fig1": 3, "fig2": len(MILESTONES), "fig3": 3, "fig4": 1}
    for name, count in drawn.items():
        files = [Path(file) for file in found[name]["files"]]
        written = [".csv", ".html", ".md"] if found[name]["tables"] else []
        assert [file.suffix for file in files] == [".svg", ".png"] * count + written
        assert len(set(files)) == len(files)
        for file in files:
            assert re.fullmatch(r"[\w.-]+", file.name)
            start = file.read_bytes()[:8]
            if file.suffix in written:
                assert "Jaccard" in file.read_text()
                continue
            assert start.startswith(b"<svg") or start == b"\x89PNG\r\n\x1a\n"


def test_some_of_them_are_cached_and_printed(studied):
    told = studied("reproduce", "smoke", "table2", "fig3")
    assert "Table 2: Jaccard of the kept layers between datasets" in told
    assert "Figure 3: Jaccard between seeds" in told
    assert "Mistral-7B-v0.1" in told and "Figure 1" not in told


def test_each_figure_needs_no_more_than_it_shows(studied):
    def kinds(until):
        steps = studied.json("plan", "smoke", "--until", until)["steps"]
        return Counter(step["step"].split()[0] for step in steps)

    assert kinds("table2") == {"prepare": 3, "stage1": 3, "stage2": 3}
    assert kinds("fig4") == {"prepare": 1, "stage1": 1, "stage2": len(MILESTONES)}
    assert kinds("fig3+fig1") == {"prepare": 3, "stage1": 3, "stage2": 3 * len(SEEDS)}


def test_an_unknown_figure_lists_those_that_there_are(ila):
    error = ila("reproduce", "smoke", "fig9", expect=2)
    assert "unknown table or figure 'fig9'" in error
    assert "fig1, fig2, fig3, fig4, table1, table10, table11, table2, table3" in error


def test_shares_of_ours_and_the_papers_are_saved_with_as_many_digits(tmp_path):
    rows = [
        {"arm": "LoRA", "measured: of 100 %": 1.0, "paper, MiB: of 100 %": 1.0},
        {"arm": "w/ ILA", "measured: of 100 %": 0.92, "paper, MiB: of 100 %": 0.776464},
    ]
    _save(Result("Table 7", {"": rows}, [], []), tmp_path)
    saved = (tmp_path / "table.md").read_text().replace(" ", "").splitlines()
    assert saved[2:] == ["|LoRA|1.000|1.000|", "|w/ILA|0.920|0.776|"]
