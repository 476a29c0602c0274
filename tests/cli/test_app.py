import functools
import json
import re
import subprocess
import sys
import warnings

import pytest

import workbench as wb
from tests.papers.synthetic import model
from tests.tuning.chat import chat_tokenizer
from workbench.bigram_backcopy import records
from workbench.cli import app as cli
from workbench.cli import report
from workbench.cli.options import options_of
from workbench.cli.patching import patch
from workbench.cli.sycophancy import evaluate
from workbench.errors import WorkbenchWarning
from workbench.papers import drawing
from workbench.papers import measured as measuring
from workbench.runs.results import open_result


@pytest.fixture
def synthetic(monkeypatch):
    """Every model is a synthetic one."""

    made = functools.cache(model)

    def maker(part):
        return lambda subject, kept: made(subject.name).part(part)

    monkeypatch.setattr(measuring, "MEASURES", {part: maker(part) for part in measuring.PARTS})


def defaults(function, *names):
    known = options_of(function)
    return {name: known[name] for name in names or known}


def commands():
    """Every command line that runs something, with its function."""
    for name, command in cli.COMMANDS.items():
        if isinstance(command, cli.Group):
            yield from (([name, word], function) for word, function in command.commands.items())
        else:
            yield [name], command


def shown_help(*words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--help"])
    assert stop.value.code == 0
    return re.sub(r"[\s│]+", " ", capsys.readouterr().out)


def test_commands_have_the_names_and_defaults_of_the_functions():
    for command, function, names in (
        (report.report, wb.report, ("models", "out", "n", "seed", "questions", "prefix", "progress")),
        (report.figure, drawing.draw, ("out", "formats", "progress")),
        (report.figure, wb.papers.FigureRequest, ("metric", "n", "seed", "questions", "prefix", "score_answers")),
        (patch, wb.path_patch, ("unit", "progress")),
        (patch, measuring.measure, ("n", "seed", "questions", "prefix")),
    ):
        mine, theirs = defaults(command, *names), defaults(function, *names)
        assert {k: str(v) for k, v in mine.items()} == {k: str(v) for k, v in theirs.items()}


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_s_help_has_an_example_that_parses(command, capsys):
    assert f"Example: workbench {command} " in shown_help(command, capsys=capsys)


@pytest.mark.parametrize(
    ("words", "function"), list(commands()), ids=lambda part: " ".join(part) if isinstance(part, list) else ""
)
def test_every_command_asks_a_question_and_every_option_of_it_is_explained(words, function, capsys):
    question = function.__doc__.split("?")[0] + "?"
    assert "\n" not in question
    assert question in shown_help(*words[:-1], capsys=capsys)
    shown = shown_help(*words, capsys=capsys)
    assert question in shown
    example = next(line for line in function.__doc__.splitlines() if "Example: workbench " in line)
    assert example.split("Example: workbench ")[1].startswith(words[0])
    body = shown.split("Example: workbench ", 1)[1]
    for option in options_of(function):
        flag = "--" + option.replace("_", "-")
        if flag not in body:
            assert option in ("model", "models", "name", "names"), f"{flag} is not in the help"
            flag = option.removesuffix("s").upper()
        told = [re.split(r"\((?:default:|required)", body[at.end() :])[0] for at in re.finditer(rf"{flag}\b", body)]
        assert any(len(re.findall("[a-z]{2,}", text)) > 1 for text in told), f"{flag} is not explained"


def test_help_is_fast_because_nothing_heavy_is_imported():
    lines = [["--help"], ["figure", "list"], ["figure", "--help"], *([*words, "--help"] for words, _ in commands())]
    code = "import json, sys, workbench.cli.app as c\nfor line in json.loads(sys.argv[1]):\n"
    code += " try:\n  c.main(line)\n except SystemExit as stop: assert not stop.code\n"
    code += " heavy = {'torch', 'transformers', 'transformer_lens', 'plotly', 'xarray', 'numpy'} & set(sys.modules)\n"
    code += " assert not heavy, (line, heavy)\n"
    run = subprocess.run([sys.executable, "-c", code, json.dumps(lines)], capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    assert "report" in run.stdout and "sycophancy/layer-sums" in run.stdout


def test_the_module_gives_the_exit_code_to_the_shell():
    run = subprocess.run(
        [sys.executable, "-m", "workbench", "figure", "nothing"], capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 2 and run.stderr.startswith("workbench: there is no figure 'nothing'")


def test_bad_input_is_told_in_one_line_with_code_2(capsys):
    assert cli.main(["figure", "sycophancy/nothing"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("workbench: there is no figure 'sycophancy/nothing'") and "Traceback" not in told
    assert told.count("\n") == 1


def test_a_command_line_that_cannot_be_read_has_code_2(capsys):
    for line in (
        ["patch"],
        ["nothing"],
        [],
        ["figure"],
        ["extreme", "nothing"],
        ["patch", "organism-gqa", "--unit", "neuron"],
    ):
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


def test_a_model_without_questions_of_its_own_is_refused_before_it_is_loaded(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "model"
    chat_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')

    def refuse(*_given, **_options):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("workbench.papers.cache.quiet_load", refuse)
    model, out = str(folder), str(tmp_path / "out")
    for line, advice in (
        (["eval", model, "--out", out], "--tasks, such as mmlu, and --data DIR"),
        (["leaf", "find", "--student", model, "--teacher", model, "--out", out], "--data FILE"),
    ):
        assert cli.main(line) == 2
        told = capsys.readouterr().err
        assert "This is not an embedded model, so it" in told and advice in told and told.count("\n") == 1


def test_errors_speak_of_options_instead_of_arguments(tmp_path, capsys):
    assert cli.main(["report", "toy", "--n", "1", "--out", str(tmp_path)]) == 2
    assert "--n 1 dialogues give no interval" in capsys.readouterr().err
    assert cli.in_options("tasks=('x',) need a folder; pass data=, or n_shots=3; not a==b.", evaluate) == (
        "--tasks ('x',) need a folder; pass --data, or --n-shots 3; not a==b."
    )


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        (["patch", "toy"], "With --resume"),
        (["patch", "toy", "--resume"], "Give the same command again"),
        (["figure", "sycophancy/layer-sums"], "Give the same command again"),
        (["check", "toy"], "nothing is kept."),
    ],
)
def test_a_stopped_run_says_in_one_line_how_to_go_on(line, advice, capsys, monkeypatch):
    def stop(*_given):
        raise KeyboardInterrupt

    monkeypatch.setattr("workbench.papers.cache.quiet_load", stop)
    monkeypatch.setattr("workbench.papers.cache.Source.require_own_questions", stop)
    monkeypatch.setattr("workbench.papers.drawing.draw", lambda *_given, **_options: stop())
    monkeypatch.chdir("/")
    monkeypatch.setattr("workbench.runs.files.check_writable", lambda folder: folder)
    assert cli.main(line) == 130
    told = capsys.readouterr().err
    assert told.startswith("workbench: stopped") and advice in told and told.count("\n") == 1


@pytest.mark.parametrize("command", ["report", "figure", "tune", "patch"])
def test_answers_and_prefix_reach_the_pairs_of_every_command(command, tmp_path, monkeypatch):
    asked = []

    def stop(*_given, **options):
        asked.append(options)
        raise wb.InputError("stopped")

    monkeypatch.setattr(wb.sycophancy, "pairs", stop)
    monkeypatch.setattr("workbench.papers.cache.Source.model", None)
    file = tmp_path / "questions.json"
    file.write_text(
        '[{"question": "Which is first?", "answers": ["A1"]}, {"question": "Which is it?", "answers": ["B"]}]'
    )
    target = {"figure": ["sycophancy/layer-sums", "--models", "toy"]}.get(command, ["toy"])
    line = [command, *target, "--out", str(tmp_path / "out"), "--questions", str(file)]
    assert cli.main([*line, "--answers", "I'm sorry", "I'm glad", "--prefix", "Well,"]) == 2
    assert cli.main([*line, "--answers", "paper"]) == 2
    assert [(one["answers"], one["prefix"]) for one in asked] == [(("I'm sorry", "I'm glad"), "Well,"), ("paper", "")]
    assert all(one["questions"][-1].question == "Which is it?" for one in asked)


def test_paths_may_begin_with_the_home_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").write_text("")
    for line in (
        ["patch", "toy", "--out", "~/file/x.nc"],
        ["report", "toy", "--out=~/file/x"],
        ["backcopy", "--out", "~/file/x.nc"],
    ):
        assert cli.main(line) == 2
        assert f"Cannot write {tmp_path}/file" in capsys.readouterr().err
    assert cli.main(["check", "~/file"]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_a_toy_model_is_trained_recorded_and_drawn(tmp_path, capsys, monkeypatch):
    brief = {"steps": 4, "batch": 2, "evaluate": 4}
    monkeypatch.setitem(records.VARIATIONS, "small", {"brief": ("one-layer", brief)})
    out = tmp_path / "toy.nc"
    line = ["backcopy", "brief", "--seeds", "0", "--out", str(out), "--no-progress"]
    assert cli.main(line) == 0
    said = capsys.readouterr().out
    assert said.startswith("brief: Bigram learned ") and f"The result is {out}" in said
    assert open_result(out)["experiment"].values.tolist() == ["brief"]
    assert (tmp_path / "toy-brief.html").is_file()
    monkeypatch.setattr(records, "run", None)
    assert cli.main(line) == 0
    assert capsys.readouterr().out == said
    assert cli.main(["backcopy", "nothing", "--out", str(out)]) == 2
    assert "There is no experiment 'nothing'" in capsys.readouterr().err


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


def test_every_figure_is_drawn_where_none_is_named(synthetic, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nowhere"))
    drawn = {name: wb.papers.FIGURES[name] for name in ("sycophancy/layer-sums", "sycophancy/kurtosis-table")}
    monkeypatch.setattr(wb.papers, "FIGURES", drawn)
    assert cli.main(["figure", "--all", "--models", "a", "--out", str(tmp_path), "--no-progress"]) == 0
    assert all((tmp_path / f"{name}.json").exists() for name in drawn)
    assert capsys.readouterr().err.count("no Chrome or Chromium was found") == 1


@pytest.mark.parametrize("words", [["figure", "draw"], ["figure", "sycophancy/layer-sums", "--all"]])
def test_one_figure_or_all_are_drawn(words, capsys):
    assert cli.main(words) == 2
    assert "Name one figure of `workbench figure list`, or give --all alone." in capsys.readouterr().err


def test_figures_that_no_column_has_room_for_are_left_out_of_all_and_named(synthetic, tmp_path, capsys, monkeypatch):
    drawn = {name: wb.papers.FIGURES[name] for name in ("sycophancy/tradeoff-table", "sycophancy/layer-sums")}
    monkeypatch.setattr(wb.papers, "FIGURES", drawn)
    line = ["figure", "--all", "--models", "organism-gqa", "--out", str(tmp_path), "--width", "column"]
    assert cli.main([*line, "--formats", "html", "--no-progress"]) == 0
    assert (
        "sycophancy/tradeoff-table: \u201cTuning by group and by head (%)\u201d cannot be read"
        in capsys.readouterr().err
    )
    assert 'style="width:400px' in (tmp_path / "sycophancy" / "layer-sums.html").read_text()


def test_a_mistyped_figure_is_answered_before_anything_heavy_is_imported():
    code = "import sys, workbench.cli.app as c\nassert c.main(['figure', 'sycophancy/layer-sum']) == 2\n"
    code += "assert not {'torch', 'plotly', 'numpy', 'xarray'} & set(sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert run.returncode == 0 and "did you mean 'sycophancy/layer-sums'?" in run.stderr, run.stderr


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
    ("action", "says", "options"),
    [
        ("tokens", "heads rest on the first token", []),
        ("peak", "collapses without mlp 0", []),
        ("domains", "8 of 64 heads measured, 6 texts per domain", ["--n", "6", "--layers", "2"]),
        ("domains", "1 of 64 heads measured, 6 texts per domain", ["--n", "6", "--heads", "2.7"]),
    ],
)
def test_extreme_tokens_are_told_in_words_and_kept(tmp_path, capsys, action, says, options):
    out = tmp_path / "x.nc"
    line = ["extreme", action, "organism-mqa", "--out", str(out), "--no-progress", "--length", "24", *options]
    assert cli.main(line) == 0
    assert says in capsys.readouterr().out
    assert out.is_file()


def test_all_figures_are_listed(capsys):
    assert cli.main(["figure", "list"]) == 0
    listed = capsys.readouterr().out
    assert "sycophancy/layer-sums" in listed and "active-dormant/extreme-tokens" in listed


def test_curves_are_told_in_one_table_with_the_baseline_and_random_controls(tmp_path, capsys):
    out = tmp_path / "curves.nc"
    line = ["dormant", "organism-gqa", "--n", "8", "--scores", "AHON_LN", "--shares", "0.2", "--draws", "2"]
    assert cli.main([*line, "--no-progress", "--out", str(out)]) == 0
    told = capsys.readouterr().out.splitlines()
    found = open_result(out)
    assert told[0].startswith(f"{float(found['baseline']):.1%} of 8 questions are answered correctly (95% interval ")
    assert f"chance {float(found['chance']):.1%}" in told[0] and "one question is 12 points" in told[0]
    names = [row.split("  ")[0] for row in told[1:6]]
    assert names == ["heads zeroed by", "(none)", "AHON (LN)", "random", "random, each layer's share"]
    assert all(f" 8  {float(found['chance']):.1%}" in row for row in told[2:6])
    assert "With 8 questions a loss below 37.5 points cannot be excluded." in told[6]


def test_letters_that_a_model_does_not_know_are_refused_with_the_option_that_helps(tmp_path, capsys):
    items = [{"question": f"Which of {i}?", "choices": ["this", "that"], "answer": i % 2} for i in range(12)]
    (tmp_path / "questions.json").write_text(json.dumps(items))
    line = ["dormant", "organism-gqa", "--n", "12", "--questions", str(tmp_path / "questions.json"), "--no-progress"]
    assert cli.main([*line, "--scores", "AHON_LN", "--out", str(tmp_path / "curves.nc")]) == 2
    told = capsys.readouterr().err
    assert "No curve from here: " in told and "score the answers as text, --score-answers text" in told


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


def test_a_real_model_is_fetched_into_the_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    folder = tmp_path / "smollm2-135m-instruct"
    folder.mkdir()
    (folder / "workbench.json").write_text("{}")
    assert cli.main(["fetch", "smollm2-135m-instruct"]) == 0
    assert capsys.readouterr().out == f"The model is {folder}\n"
    assert cli.main(["fetch", "smollm2"]) == 2
    assert "There is no model 'smollm2' to fetch; Known: smollm2-135m-instruct" in capsys.readouterr().err
