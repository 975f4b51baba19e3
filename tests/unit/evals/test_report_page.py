"""The page of `docendo report`: whole, safe whatever models and files say, and not too large."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.errors import DataError, MissingExtra, StorageError
from docendo.evals import EvalRecord, EvalResult, ReportData, Sample, report, results_report, save_plots
from docendo.evals.reports._page import shown
from docendo.records import Usage

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style></pre><b>bold",
    "lone \ud800 and \x00\x1b[31m\x07\x85 controls",
    "reordered \u202egnp.exe\u202c and \u2067isolated\u2069",
    "עברית 123",
    "{{ 7 * 7 }} {% raw %}",
    "$x^$ \\frac{1}{2}",
    "_hidden",
    "",
)
VOID = {"meta", "br"}


def saying(name: str, texts: tuple[str, ...], n: int = 60, samples: int = 2, right: int = 3) -> EvalResult:
    records = []
    for k in range(n):
        text = texts[k % len(texts)]
        sure, good = (k % 10) / 9, (k * right) % 7 < 3
        more = tuple(
            Sample(text=text, parsed="1", correct=True, value=1.0, confidence=sure)
            for _ in range(samples - 1)
        )
        failed = k % 20 == 19
        records.append(
            EvalRecord(
                item=f"{k}",
                question=f"{text} {k}",
                text=text,
                parsed="1" if good else "0",
                correct=None if failed else good,
                value=float(good),
                failure=f"model: {text}" if failed else None,
                confidence=sure,
                stratum=texts[k % min(3, len(texts))],
                more=more,
                usage=Usage(prompt_tokens=20 + k, generated_tokens=9 * right),
                seconds=0.1,
                flops=1e9 * right,
            )
        )
    return EvalResult(
        name=name, task=texts[0], scorer="exact", records=tuple(records), majority=0.2, chance=0.1
    )


def full(results: int = 7) -> ReportData:
    given = [saying(name, HOSTILE, right=n + 2) for n, name in enumerate(HOSTILE[:results])]
    return results_report(given, stages=results > 1, title=HOSTILE[1]).replace(
        losses=((1, 2.0), (2, 1.0)), phases=((HOSTILE[2], 3.0),), notes=HOSTILE, config={"x": HOSTILE[2]}
    )


class Whole(HTMLParser):
    """Checks that what is opened is closed, in order; collects tags, attributes and drawings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.drawings: list[tuple[int, list[str]]] = []
        self.descriptions: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._seen(tag, attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "svg" and ("role", "img") in attrs:
            self.drawings.append((len(self.open), []))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._seen(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "desc":
            self.descriptions.append(data)

    def _seen(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if self.drawings and "svg" in self.open and len(self.open) == self.drawings[-1][0]:
            self.drawings[-1][1].append(tag)


@pytest.fixture(scope="module")
def page() -> str:
    return report(full())


def test_the_page_has_every_part(page: str) -> None:
    headings = re.findall(r"<h2>([^<]*)", page)
    assert [heading.strip() for heading in headings] == [
        "Notes",
        "Differences",
        "By stratum",
        "Cost and accuracy",
        "Learning and sampling",
        "Training loss",
        "Time by phase",
        "Confidence",
        "What became worse, what became better",
        "How to repeat it",
    ]
    assert "without an answer (model 3)" in page
    assert "Worst falls, 2 of" in page


def test_the_page_is_whole_and_neither_loads_nor_runs_anything(page: str) -> None:
    whole = Whole(page)
    assert not whole.tags & {"script", "img", "b-", "iframe", "link", "object", "form", "a"}
    assert not [name for name in whole.attributes if name.startswith("on") or name in ("src", "href")]
    assert "default-src 'none'" in page
    assert not re.findall(r"url\(|@import|https?://", page)
    assert "49" not in re.findall(r"<title>([^<]*)", page)[0]


def test_no_character_that_acts_on_its_surroundings_is_left(page: str) -> None:
    assert not re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
    for escaped in (r"\ud800", r"\x00", r"\x1b[31m", r"\u202egnp.exe", "עברית 123"):
        assert escaped in page
    page.encode("utf-8")


def test_every_drawing_says_what_it_shows(page: str) -> None:
    whole = Whole(page)
    # 7 bars, 6 differences, 3 frontiers, stages, 2 of samples, the loss, 6 of confidence and the risk.
    assert len(whole.drawings) == 7 + 6 + 3 + 1 + 2 + 1 + 6 + 1
    assert all(children[:2] == ["title", "desc"] for _, children in whole.drawings)
    assert len(whole.descriptions) >= len(whole.drawings)
    assert all(text.strip() for text in whole.descriptions)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=60))
def test_any_text_can_be_shown(text: str) -> None:
    data = ReportData(title=text, task=text, notes=(text,), phases=((text, 1.0),), versions={text: text})
    made = report(data)
    Whole(made)
    made.encode("utf-8")
    assert "\n" not in shown(text.replace("\n", ""))


def test_an_answerless_result_has_no_number() -> None:
    records = tuple(
        EvalRecord(item=str(n), question="q", failure="infrastructure: engine closed") for n in range(3)
    )
    empty = EvalResult(name="none", task="demo", scorer="exact", records=records)
    made = report(results_report([empty, empty.replace(name="other")]))
    assert "no answer; 3 without an answer (infrastructure 3)" in made
    assert "nan" not in made.lower()


def test_the_baselines_of_each_result_are_drawn() -> None:
    first = saying("a", ("x",)).replace(majority=0.25)
    made = report(results_report([first, first.replace(name="b", majority=0.5)]))
    assert made.count('x1="25.0%"') == 1
    assert made.count('x1="50.0%"') >= 1
    assert "guessing 10.0 %" in made
    assert "always the most frequent answer</li>" in made


@pytest.mark.slow
def test_ten_thousand_records_make_a_small_page() -> None:
    texts = tuple(text + "<&\"'>" * 2000 for text in HOSTILE)
    given = [saying(f"r{n}", texts, n=10_000, right=n + 2) for n in range(3)]
    made = report(results_report(given))
    assert len(made.encode()) < 2_000_000
    Whole(made)


def test_many_strata_are_cut_and_said() -> None:
    one = saying("a", HOSTILE, n=300, samples=1)
    records = tuple(record.replace(stratum=f"part {n // 2}") for n, record in enumerate(one.records))
    made = report(results_report(one.replace(records=records)))
    assert "76 more strata" in made
    assert "50 further strata are not shown" in made


def test_plots_are_png_files_of_what_there_is(tmp_path: Path) -> None:
    files = save_plots(full(3), tmp_path / "plots")
    assert [file.name for file in files] == [
        "accuracy.png",
        "differences.png",
        "frontier.png",
        "loss.png",
        "stages.png",
        "calibration.png",
        "risk.png",
        "samples.png",
    ]
    for file in files:
        content = file.read_bytes()
        assert content.startswith(b"\x89PNG")
        width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
        assert width >= 900
        assert height >= 200
    bars = ReportData(title="", arms=tuple(arm.replace(cost=None) for arm in full(3).arms))
    (again,) = save_plots(bars, tmp_path / "again")
    assert again.read_bytes() == files[0].read_bytes()
    assert save_plots(ReportData(title="nothing"), tmp_path / "none") == ()


def test_plots_need_their_extra_and_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        save_plots(full(1), tmp_path / "file" / "plots")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"'matplotlib' is not installed; .*docendo\[plots\]"):
        save_plots(full(1), tmp_path / "plots")


def saved(folder: Path, name: str, right: int) -> str:
    return str(saying(name, HOSTILE, right=right).save(folder / f"r{right}"))


def test_the_command_writes_page_and_plots(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    from docendo.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    one, two = saved(tmp_path, HOSTILE[0], 2), saved(tmp_path, HOSTILE[3], 3)
    assert main(["report", one, two, "--plots", "plots", "--title", "Two <b>"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"lone \ud800 and \x00" in out
    assert out.endswith("report: report.html\n")
    page = Path("report.html").read_text(encoding="utf-8")
    assert "Two &lt;b&gt;" in page
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", page)
    assert Path("plots/accuracy.png").exists()
    assert main(["report", one, two, "--baseline", HOSTILE[3], "--stages", "--out", "other.html"]) == 0
    assert "Accuracy by stage" in Path("other.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "missing"),
        (["{one}", "--baseline", "x"], "no result 'x'"),
        (["{one}", "--out", "{folder}"], "cannot write"),
        (["{one}", "--stages"], "1 stages"),
        (["{one}", "{one}", "--control", "x"], "no result 'x'"),
        (["{one}", "--level", "2"], "level is 2"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    tmp_path: Path, capsys: Any, monkeypatch: Any, arguments: list[str], message: str
) -> None:
    from docendo.cli import main

    monkeypatch.chdir(tmp_path)
    one = saved(tmp_path, "one", 2)
    assert main(["report", *(text.format(one=one, folder=tmp_path) for text in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*.html"))


def test_a_report_of_old_data_can_be_made() -> None:
    """Files written before a report had these parts lack them."""
    old = {
        "title": "old",
        "arms": [{"name": "a", "accuracy": 0.5, "interval": [0.4, 0.6], "n": 9, "correct": 4, "failed": 0}],
        "transcripts": [{"question": "q", "before": "x", "before_correct": True, "taught": []}],
    }
    data = ReportData.from_json(old)
    assert data.arms[0].interval == (0.4, 0.6)
    assert "50.0 %" in report(data)
    with pytest.raises((KeyError, TypeError)):
        ReportData.from_json({"title": "x", "unknown": 1})
    with pytest.raises(DataError):
        results_report([])
