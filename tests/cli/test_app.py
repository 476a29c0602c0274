import inspect
import re
import subprocess
import sys
import warnings

import pytest

import workbench as wb
from tests.papers.synthetic import model
from workbench.cli import app as cli
from workbench.errors import WorkbenchWarning
from workbench.papers import drawing
from workbench.papers import measured as measuring


@pytest.fixture
def synthetic(monkeypatch):
    """Every model is a synthetic one."""

    def maker(part):
        return lambda subject, kept: getattr(model(subject.name), part)

    monkeypatch.setattr(measuring, "MEASURES", {part: maker(part) for part in measuring.PARTS})


def defaults(function, *names):
    parameters = inspect.signature(function).parameters
    return {name: parameters[name].default for name in names or parameters}


def test_commands_have_the_names_and_defaults_of_the_functions():
    for command, function, names in (
        (cli.report, wb.report, ("models", "out", "n", "seed", "questions", "progress")),
        (
            cli.figure,
            drawing.draw,
            ("name", "out", "metric", "formats", "n", "seed", "questions", "progress"),
        ),
        (cli.patch, wb.path_patch, ("unit", "progress")),
        (cli.patch, measuring.measure, ("n", "seed", "questions")),
    ):
        mine, theirs = defaults(command, *names), defaults(function, *names)
        assert {k: str(v) for k, v in mine.items()} == {k: str(v) for k, v in theirs.items()}


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_s_help_has_an_example_that_parses(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert f"Example: workbench {command} " in shown


def test_help_is_fast_because_nothing_heavy_is_imported():
    code = "import sys, workbench.cli.app as c\ntry:\n c.main(['--help'])\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'transformers', 'plotly', 'xarray', 'numpy'} & set(sys.modules)\n"
    code += "sys.exit(', '.join(heavy) if heavy else 0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "report" in run.stdout


def test_bad_input_is_told_in_one_line_with_code_2(capsys):
    assert cli.main(["figure", "sycophancy/nothing"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("workbench: there is no figure 'sycophancy/nothing'") and "Traceback" not in told
    assert told.count("\n") == 1


def test_a_command_line_that_cannot_be_read_has_code_2(capsys):
    for line in (["patch"], ["nothing"], ["patch", "organism-gqa", "--unit", "neuron"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(line)
        assert stop.value.code == 2


def test_an_unwritable_folder_has_code_2_before_any_work(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(measuring, "MEASURES", {})
    assert cli.main(["report", "toy", "--out", str(tmp_path / "file" / "out"), "--no-progress"]) == 2
    assert cli.main(["figure", "sycophancy/layer-sums", "--out", str(tmp_path / "file" / "out")]) == 2
    assert cli.main(["patch", "toy", "--out", str(tmp_path / "file" / "out.nc")]) == 2
    assert capsys.readouterr().err.count("Cannot write") == 3


def test_a_bug_is_not_dressed_as_bad_input(synthetic, tmp_path, monkeypatch):
    def broken(subject, kept):
        raise ZeroDivisionError

    monkeypatch.setitem(measuring.MEASURES, "heads", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["report", "toy", "--out", str(tmp_path), "--no-progress"])


def test_report_writes_the_page_and_says_where(synthetic, tmp_path, capsys):
    assert cli.main(["report", "toy", "--out", str(tmp_path), "--n", "12", "--no-progress"]) == 0
    assert capsys.readouterr().out == f"The page is {tmp_path / 'index.html'}\n"
    assert (tmp_path / "index.html").exists()


def test_figure_writes_the_files_and_says_the_sentence(synthetic, tmp_path, capsys):
    line = ["figure", "sycophancy/layer-sums", "--models", "a", "b", "--out", str(tmp_path)]
    assert cli.main([*line, "--formats", "html", "json", "--no-progress"]) == 0
    shown = capsys.readouterr().out
    assert "a: Layer 2 alone holds" in shown and "b: Layer 2 alone holds" in shown
    assert (tmp_path / "sycophancy" / "layer-sums.html").exists()
    assert (tmp_path / "sycophancy" / "layer-sums.json").exists()
    assert (tmp_path / "assets" / "plotly.min.js").exists()


def test_figure_says_once_that_pictures_need_a_browser(synthetic, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nowhere"))
    assert cli.main(["figure", "sycophancy/layer-sums", "--models", "a", "--out", str(tmp_path), "--no-progress"]) == 0
    assert capsys.readouterr().err.count("no Chrome or Chromium was found") == 1


def test_a_warning_is_one_plain_line(capsys, monkeypatch):
    def doubtful(model: str):
        text = warnings.formatwarning("the result deserves a second look.", WorkbenchWarning, "file.py", 3)
        sys.stderr.write(text)

    monkeypatch.setitem(cli.COMMANDS, "check", doubtful)
    before = warnings.formatwarning
    assert cli.main(["check", "--model", "toy"]) == 0
    assert capsys.readouterr().err == "workbench: the result deserves a second look.\n"
    assert warnings.formatwarning is before


def test_the_organism_is_asked_its_own_questions(tmp_path, capsys):
    assert cli.main(["eval", "organism-gqa", "--limit", "8", "--out", str(tmp_path / "e.nc"), "--no-progress"]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("organism") and "n = 8" in line
    assert (tmp_path / "e.nc").is_file()


@pytest.mark.parametrize(
    ("action", "says"),
    [("tokens", "heads rest on the first token"), ("peak", "collapses without mlp 0"), ("domains", "heads: ")],
)
def test_extreme_tokens_are_told_in_words_and_kept(tmp_path, capsys, action, says):
    out = tmp_path / "x.nc"
    assert cli.main(["extreme", action, "organism-mqa", "--out", str(out), "--no-progress", "--length", "24"]) == 0
    assert says in capsys.readouterr().out
    assert out.is_file()


def test_all_figures_are_listed(capsys):
    assert cli.main(["figure", "list"]) == 0
    listed = capsys.readouterr().out
    assert "sycophancy/layer-sums" in listed and "active-dormant/extreme-tokens" in listed


def test_chosen_groups_are_tuned_and_saved_as_a_checkpoint(tmp_path, capsys):
    out = tmp_path / "tuned"
    words = ["tune", "organism-gqa", "--out", str(out), "--steps", "1", "--n", "4", "--dialogues", "8", "--no-progress"]
    assert cli.main([*words, "--measure", "4"]) == 0
    assert "Tuned 4 heads (kv_group). The checkpoint is" in capsys.readouterr().out
    assert (out / "model.safetensors").is_file() and "| truthfulness |" in (out / "README.md").read_text()
    assert cli.main(words) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err


def test_random_heads_are_tuned_as_a_control(tmp_path, capsys):
    words = ["tune", "organism-mqa", "--steps", "1", "--n", "2", "--dialogues", "8", "--no-progress"]
    assert cli.main([*words, "--out", str(tmp_path / "a"), "--unit", "head", "--control", "--insist-only"]) == 0
    assert "Tuned 3 heads (head)" in capsys.readouterr().out
