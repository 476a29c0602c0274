import pytest

from tests.papers.synthetic import model
from workbench.errors import InputError
from workbench.papers import measured as measuring
from workbench.papers.drawing import progress_bar
from workbench.papers.measured import measure_all


@pytest.fixture
def synthetic(monkeypatch):
    def maker(part):
        return lambda subject, kept: getattr(model(subject.name), part)

    monkeypatch.setattr(measuring, "MEASURES", {part: maker(part) for part in measuring.PARTS})


def test_models_are_measured_in_order_into_folders_of_their_names(synthetic, tmp_path):
    steps = []
    found = measure_all(["one", "org/two"], tmp_path, n=3, seed=0, parts=("heads",), step=steps.append)
    assert [one.name for one in found] == ["one", "org/two"]
    assert steps == ["one: patching each head", "org/two: patching each head"]
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.nc")) == [
        "one/heads.nc",
        "two/heads.nc",
    ]


def test_models_of_one_name_are_refused(tmp_path):
    with pytest.raises(InputError, match="toy was given more than once; their results would share one folder"):
        measure_all(["a/toy", "b/toy"], tmp_path, n=3, seed=0)
    with pytest.raises(InputError, match="no models given"):
        measure_all([], tmp_path, n=3, seed=0)


def test_the_bar_goes_by_what_steps_cost(capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    with progress_bar([1.0, 3.0], shown=True) as step:
        step("first")
        step("second")
    shown = capsys.readouterr().err
    assert " 0%" in shown and "second |" in shown and " 25%" in shown and "done" in shown and "100%" in shown
    with progress_bar([1.0, 3.0], shown=False) as step:
        step("first")
    assert capsys.readouterr().err == ""
