import pytest

from workbench.papers.leaf.published import ACCURACY, AVERAGES, BENCHMARKS, STUDENTS, WAYS, gains


@pytest.mark.parametrize("student", STUDENTS)
def test_the_cells_give_the_printed_averages(student):
    for way in WAYS:
        cells = ACCURACY[student][way]
        for mean, three in zip(AVERAGES[student][way], (cells[:3], cells[3:]), strict=True):
            assert sum(three) / 3 == pytest.approx(mean, abs=0.0101)


def test_every_cell_is_a_share_of_its_questions():
    sizes = [n for group in BENCHMARKS.values() for n in group.values()]
    for rows in ACCURACY.values():
        for cells in rows.values():
            for cell, n in zip(cells, sizes, strict=True):
                assert cell == pytest.approx(100 * round(cell * n / 100) / n, abs=0.0101)


def test_gains_over_distillation():
    found = list(gains().values())
    assert found == [(1.68, 2.38), (2.92, 2.64), (2.16, 2.14)]
    assert [round(sum(one) / 3, 2) for one in zip(*found, strict=True)] == [2.25, 2.39]
