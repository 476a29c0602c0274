import numpy as np
import pytest

from workbench.errors import InputError
from workbench.organisms.provider import Organism
from workbench.papers.kv_groups import seeds
from workbench.papers.measured import Measured
from workbench.reporting.sections import Findings, training_seeds


@pytest.fixture
def cards(monkeypatch):
    """Cards of two kinds, with five and four training seeds."""

    def spread(values):
        return {"seeds": {str(i): v for i, v in enumerate(values)}}

    made = {
        "organism-gqa": {
            "seed": 1,
            "circuit": {
                "kurtosis (Pearson)": spread([20, 25, 30, 22, 24]),
                "strongest group": spread([-1, -2, -3, -2, -1]),
            },
        },
        "organism-mha": {
            "seed": 0,
            "circuit": {
                "kurtosis (Pearson)": spread([60, 55, 58, 61]),
                "strongest group": spread([-1, -3, -2, -2]),
            },
        },
    }

    def card(name):
        if name not in made:
            raise InputError("the weights are missing")
        return made[name]

    monkeypatch.setattr(Organism, "card", lambda organism: card(organism.name))
    return made


def test_every_seed_of_every_kind_is_a_run(cards):
    runs = seeds.seed_runs(["organism-gqa", "organism-mha", "some/model"])
    assert runs.sizes["run"] == 9
    np.testing.assert_array_equal(runs["kurtosis (Pearson)"].values[:5], [20, 25, 30, 22, 24])
    shipped = runs.where(runs["shipped"], drop=True)
    assert dict(zip(shipped["kind"].values, shipped["kurtosis (Pearson)"].values, strict=True)) == {
        "organism-gqa": 25,
        "organism-mha": 60,
    }


def test_the_line_compares_the_kinds_over_their_seeds(cards):
    runs = seeds.seed_runs(["organism-gqa", "organism-mha"])
    line = seeds.seeds_line(runs, "kurtosis (Pearson)")
    assert "organism-gqa 24.0 (median of 5 seeds, 20.0 to 30.0, the shipped one 25.0)" in line
    assert "organism-mha and organism-gqa differ" in line
    assert "cannot be told apart" in seeds.seeds_line(runs, "strongest group")


def test_what_is_fixed_by_construction_is_not_tested(cards):
    cards["organism-mha"]["circuit"]["strongest group"] = {"seeds": {str(i): 1.0 for i in range(4)}}
    line = seeds.seeds_line(seeds.seed_runs(list(cards)), "strongest group")
    assert "the same in every seed of organism-mha" in line and "permutation" not in line


def test_one_kind_is_told_without_comparison(cards):
    line = seeds.seeds_line(seeds.seed_runs(["organism-gqa"]), "kurtosis (Pearson)")
    assert "permutation" not in line


def section(name):
    return training_seeds(Findings([Measured(name, {})], "logit_diff"))


def test_no_card_gives_no_section(cards):
    assert section("some/model") is None
    assert section("organism-mqa") is None
    assert section("organism-gqa").anchor == "seeds"
