"""What is said of accuracy curves, at chance and above it."""

import numpy as np
import pytest
import xarray as xr

from workbench.inactive_heads import baseline_of, summarize
from workbench.papers.inactive_heads.sentences import baseline_line, claim_line, curve_line, curve_table, paper_line

NAMES = ("AHON_LN", "AWFT", "Random")


def curves(known, *lost, n=400, given=None):
    """Curves of n questions of which `known` are answered; `lost` of these at each of three shares, by score."""
    share = np.array([0, 0.1, 0.2])
    order = np.arange(n)
    correct = np.stack([(order >= np.array([0, *row])[:, None]) & (order < known) for row in lost])
    answers = xr.DataArray(
        order < known,
        dims="example",
        coords={
            "given": ("example", given or [str(i) for i in range(n)]),
            "right": ("example", [str(i if i < known else -i) for i in range(n)]),
            "chance": ("example", np.full(n, 0.25)),
        },
        attrs={"score_answers": "text", "normalise": "characters"},
    )
    worth = baseline_of(answers)
    found = worth.assign(
        share=(("score", "threshold"), np.tile(share, (len(lost), 1))),
        accuracy=(("score", "threshold"), correct.mean(-1)),
        correct=(("score", "threshold", "example"), correct),
        baseline_correct=("example", correct[0, 0]),
    ).assign_coords(score=list(NAMES[: len(lost)]), threshold=share)
    return found.merge(summarize(found, n=200)).assign_attrs(worth.attrs)


def test_the_baseline_is_told_with_chance_and_what_a_question_counts():
    assert baseline_line(curves(320, (0, 0))) == (
        "80.0% of 400 questions are answered correctly (95% interval 75.8% to 83.6%; chance 25.0%; the commonest "
        "answer is given to 0.2%; one question is 0.25 points; answers scored as text, divided by their characters)."
    )


def test_a_curve_within_the_loss_is_told_as_a_bound():
    told = curve_line(curves(320, (0, 0), (8, 40), (40, 160)))
    assert told.startswith(
        "chosen by AHON (LN), at least 20.0% (20.0 or more) of the heads can go within one point of 80"
    )
    assert "questions (95% interval 75.8% to 83.6%; chance 25.0%), at least 20.0% (20.0 or more) within half" in told
    assert "AWFT 5.0% (" in told and "random 1.0% (" in told and "That is at least 19.0% (" in told
    assert "cannot be excluded" not in told
    unknown = curve_line(curves(320, (0, 0), (8, 40), (0, 0)))
    assert "Random choice stays within one point to the end of its curve too, so a gain over it is not known" in unknown


def test_few_questions_are_said_to_be_few():
    told = curve_line(curves(24, (0, 0), (0, 4), (4, 8), n=30))
    assert told.endswith("With 30 questions a loss below 10.0 points cannot be excluded.")


@pytest.mark.parametrize("tell", [curve_line, claim_line])
def test_at_chance_nothing_is_said_of_heads(tell):
    told = tell(curves(100, (0, 0), (0, 0), (0, 0)))
    assert "25.0% of 400 questions are answered correctly (95% interval 21.0% to 29.5%), which is not above" in told
    assert "at least" not in told and "confirmed" not in told


@pytest.mark.parametrize(
    ("lost", "n", "verdict"),
    [
        (0, 800, "AHON (LN) confirmed, 0.0 points lost (0.0 to 0.0)"),
        (0, 400, "AHON (LN) open, 0.0 points lost (0.0 to 0.0)"),
        (40, 400, "AHON (LN) refuted, 10.0 points lost (7"),
        (3, 400, "AHON (LN) open, 0.8 points lost (0"),
    ],
)
def test_the_paper_s_claim_is_judged_beside_its_models(lost, n, verdict):
    told = claim_line(curves(int(0.8 * n), (lost, lost), (lost, lost), (lost, lost), n=n))
    assert verdict in told
    assert "zeroed in 5 of 14 models and loses 1.3 points in the median" in paper_line()


def test_a_score_that_selects_no_head_is_named():
    found = curves(320, (0, 0), (8, 40), (40, 160))
    assert "selects no head" not in curve_table(found)
    found["share"].loc[{"score": "AWFT"}] = 0
    assert "selects no head" in curve_table(found).splitlines()[4]


def test_the_table_holds_every_row_with_questions_and_chance():
    rows = curve_table(curves(320, (0, 0), (8, 40), (40, 160))).splitlines()[1:]
    assert [row.split("  ")[0] for row in rows] == ["heads zeroed by", "(none)", "AHON (LN)", "AWFT", "random"]
    assert all("  400  25.0%  " in row for row in rows[1:])
    assert "  10.0 (7." in rows[-1] and "  at least 20.0% (20.0 or more)  " in rows[2]
