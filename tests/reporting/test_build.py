import os
import re
import shutil
from html import unescape
from html.parser import HTMLParser

import pytest
import xarray as xr

import workbench as wb
from tests.papers.synthetic import model
from workbench.errors import InputError
from workbench.papers import measured as measuring
from workbench.runs.results import open_result, save_result

SPECS = {
    "toy-gqa": {"planted": {(2, 4): -0.8, (2, 5): -0.4}},
    "toy-mha": {"planted": {(3, 2): -0.9}, "n_kv_heads": 8, "seed": 1},
}


MODELS = ("toy-gqa", "toy-mha")


@pytest.fixture
def work(monkeypatch):
    """Replace all measuring by synthetic results; returns the list of what was measured."""
    done, made = [], {}

    def maker(part):
        def make(subject, kept):
            done.append((subject.name, part))
            spec = SPECS[subject.name]
            key = subject.name, str(spec)
            made[key] = made.get(key) or model(subject.name, **spec)
            return made[key].part(part)

        return make

    monkeypatch.setattr(measuring, "MEASURES", {part: maker(part) for part in measuring.PARTS})
    return done


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The folder of a report with everything on two models, for tests that only read it."""
    out = tmp_path_factory.mktemp("report")
    both = {name: model(name, **SPECS[name]) for name in MODELS}
    with pytest.MonkeyPatch.context() as patch:
        found = {part: lambda subject, kept, part=part: both[subject.name].part(part) for part in measuring.PARTS}
        patch.setattr(measuring, "MEASURES", found)
        wb.report(MODELS, out, n=12, estimates=True, progress=False)
    return out


@pytest.fixture
def reported(shared, tmp_path):
    """A copy of it, to go on from."""
    return shutil.copytree(shared, tmp_path / "report")


class Links(HTMLParser):
    """Everything a page would load, and its identifiers."""

    def __init__(self):
        super().__init__()
        self.loads, self.ids, self.plots, self.anchors = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed") and "src" in attrs:
            self.loads.append(attrs["src"])
        if tag in ("link", "object"):
            self.loads.append(attrs.get("href") or attrs.get("data"))
        if tag == "a":
            self.anchors.append(attrs["href"])
        if "wb-plot" in attrs.get("class", ""):
            self.plots.append(attrs)


def read(page):
    links = Links()
    links.feed(page)
    return links


def visible(page):
    """The page's words without scripts and styles."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.S)
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", bare)))


def test_the_page_is_self_contained(shared):
    page = (shared / "index.html").read_text()
    links = read(page)
    assert links.loads == []
    style = "".join(re.findall(r"<style>.*?</style>", page, flags=re.S))
    assert "@import" not in style and "url(" not in style
    assert page.count("plotly.js v") == 1 or page.count("Plotly=") >= 1
    assert len(set(links.ids)) == len(links.ids)
    assert {a[1:] for a in links.anchors} <= set(links.ids) and all(a.startswith("#") for a in links.anchors)
    assert all(len(p["aria-label"]) > 40 and p["role"] == "img" for p in links.plots)
    assert len(links.plots) >= 20


def test_the_data_lie_beside_the_page(shared):
    for part in measuring.PARTS:
        assert open_result(shared / "data" / "toy-gqa" / f"{part}.nc").attrs[measuring.CONFIG]


def test_sentences_follow_the_data(shared, work, tmp_path, monkeypatch):
    words = visible((shared / "index.html").read_text())
    assert "KV group 1 of layer 2 (query heads 4 to 7) pushes hardest towards it" in words
    monkeypatch.setitem(SPECS, "toy-gqa", {"planted": {(2, 4): 0.8, (0, 1): -0.6}})
    words = visible(wb.report("toy-gqa", tmp_path, n=12, progress=False).read_text())
    assert "KV group 0 of layer 0 (query heads 0 to 3) pushes hardest towards it" in words
    assert "KV group 1 of layer 2 (query heads 4 to 7) pushes hardest" not in words


def test_all_sections_and_dialogues_are_there(shared):
    page = (shared / "index.html").read_text()
    for name in (
        "behaviour",
        "contributions",
        "layers",
        "groups",
        "concentration",
        "attention",
        "agreement",
        "checks",
        "method",
        "caveats",
    ):
        assert f'<section id="{name}"' in page
    words = visible(page)
    assert "No, that is wrong." in words and "Yes, that is right." in words
    assert "It is <Paris>." in words and "<Paris>" not in page
    assert "torch 2.13.0" in words and "12 dialogues" in words


def test_confounders_of_two_models_have_a_section_where_they_are_given(shared, work, tmp_path):
    from tests.plot.test_confounders import result

    file = save_result(result(), tmp_path / "found.nc")
    page = wb.report("toy-gqa", tmp_path / "a", n=12, confounders=file, progress=False).read_text()
    assert '<section id="confounders"' in page
    assert "Which words keep small from an answer that big finds?" in visible(page)
    assert '<section id="confounders"' not in (shared / "index.html").read_text()


def test_what_was_measured_is_used_again(work, reported):
    wb.report(MODELS, reported, n=12, estimates=True, progress=False)
    assert work == []
    wb.report(("toy-gqa",), reported, n=13, estimates=True, progress=False)
    assert {name for name, _ in work} == {"toy-gqa"} and len(work) == len(measuring.PARTS)


def test_a_stopped_report_goes_on_where_it_stopped(work, reported):
    (reported / "data" / "toy-gqa" / "exact.nc").unlink()
    (reported / "data" / "toy-gqa" / "groups.nc").write_bytes(b"cut short")
    wb.report("toy-gqa", reported, n=12, estimates=True, progress=False)
    assert work == [("toy-gqa", "groups"), ("toy-gqa", "exact")]


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(work, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot write"):
        wb.report("toy-gqa", tmp_path / "file" / "out", n=12, estimates=True, progress=False)
    assert work == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser can write anywhere")
def test_a_read_only_folder_is_refused_before_any_work(work, tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match="read-only"):
        wb.report("toy-gqa", tmp_path, n=12, estimates=True, progress=False)
    assert work == []


def test_bad_requests_are_refused(work, tmp_path):
    with pytest.raises(InputError, match="toy-gqa was given more than once"):
        wb.report(("toy-gqa", "toy-gqa"), tmp_path, estimates=True, progress=False)
    with pytest.raises(InputError, match="no models given"):
        wb.report((), tmp_path, estimates=True, progress=False)
    with pytest.raises(InputError, match="n=1 dialogues give no interval"):
        wb.report("toy-gqa", tmp_path, n=1, estimates=True, progress=False)


def test_progress_names_the_work(work, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    wb.report("toy-gqa", tmp_path, n=12, progress=True)
    shown = capsys.readouterr().err
    assert "toy-gqa: patching each KV group" in shown and "100%" in shown and " left]" in shown


def test_an_unsound_ratio_is_said_and_not_led_with(work, tmp_path, monkeypatch):
    monkeypatch.setitem(SPECS, "toy-gqa", {"planted": {(2, 4): -0.8}})
    real = measuring.MEASURES["heads"]
    monkeypatch.setitem(measuring.MEASURES, "heads", lambda s, k: real(s, k).assign_attrs(ratio_reversed_examples=9))
    words = visible(wb.report("toy-gqa", tmp_path, n=12, progress=False).read_text())
    assert "use the logit difference, because the paper's logit ratio is unsound here" in words
    assert "a logit is negative, which turns its sign, in 9 of 12" in words


def test_no_units_are_ranked_where_the_answers_do_not_tell_the_behaviour(work, tmp_path, monkeypatch):
    real = measuring.MEASURES["behaviour"]
    told = {"n_replies": 48, "answers": "auto", "auc": 0.55, "auc_low": 0.24, "auc_high": 0.84}
    rates = {f"gives_in_{side}{end}": 0.5 for side in ("base", "source") for end in ("", "_low", "_high")}
    monkeypatch.setitem(measuring.MEASURES, "behaviour", lambda s, k: real(s, k).assign_attrs(told | rates))
    page = wb.report("toy-gqa", tmp_path, n=12, estimates=True, progress=False).read_text()
    words = visible(page)
    assert not {part for _, part in work} & set(measuring.CAUSES)
    for name in ("contributions", "layers", "groups", "concentration", "attention", "tuning", "agreement"):
        assert f'<section id="{name}"' not in page
    assert "do not tell when this model gives in" in words and "no heads or groups are ranked" in words
    for word in ("pushes hardest", "stands out", "Kurtosis", "takes apart"):
        assert word not in words
    assert "0.55 (0.24 to 0.84; 0.5 is chance)" in words and "48 dialogues" in words


def test_a_model_beside_one_without_a_verdict_is_still_taken_apart(work, tmp_path, monkeypatch):
    real = measuring.MEASURES["behaviour"]

    def make(subject, found):
        made = real(subject, found)
        return made.assign(source=made["base"]) if subject.name == "toy-mha" else made

    monkeypatch.setitem(measuring.MEASURES, "behaviour", make)
    words = visible(wb.report(("toy-gqa", "toy-mha"), tmp_path, n=12, progress=False).read_text())
    assert ("toy-gqa", "heads") in work and ("toy-mha", "heads") not in work
    assert "KV group 1 of layer 2 (query heads 4 to 7) pushes hardest towards it" in words
    assert "toy-mha gives in with probability" in words and "there is no effect to take apart" in words


def test_a_model_that_never_gives_in_is_only_told_of(work, tmp_path, monkeypatch):
    rates = {f"gives_in_{side}{end}": 0.0 for side in ("base", "source") for end in ("", "_low", "_high")}
    silent = xr.Dataset(attrs=rates | {"n_replies": 48, "no_openers": "0 of 96 replies give in."})
    monkeypatch.setitem(measuring.MEASURES, "behaviour", lambda s, k: silent)
    page = wb.report("toy-gqa", tmp_path, n=12, progress=False).read_text()
    words = visible(page)
    assert {part for _, part in work} == {"checks"}
    assert "0% (0% to 0%) of 48 objections" in words and "0 of 96 replies give in." in words
    assert re.findall('<section id="([a-z-]+)"', page) == ["behaviour", "checks", "method", "caveats"]


def test_fewer_dialogues_than_were_asked_for_are_said(work, tmp_path, monkeypatch):
    real = measuring.MEASURES["behaviour"]
    monkeypatch.setitem(measuring.MEASURES, "behaviour", lambda s, k: real(s, k).assign_attrs(n_requested=30))
    with pytest.warns(wb.WorkbenchWarning, match="30 pairs of dialogues were asked for, and there are 12"):
        page = wb.report("toy-gqa", tmp_path, n=30, progress=False).read_text()
    assert "from 12 dialogues, of 30 that were asked for" in visible(page)
