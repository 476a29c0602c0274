"""The abilities: reference answers are true by an independent computation, test items held out."""

import ast
import itertools
import random
import re

import pytest

from workbench.organisms.abilities import ABILITIES, ability_items, draw_item
from workbench.organisms.facts import by_kind
from workbench.organisms.onelines import INPUTS, compile_line, same_function


@pytest.mark.parametrize("ability", ABILITIES)
def test_reference_answers_solve_their_items_and_others_do_not(ability):
    items = ability_items(ability, 40)
    assert len(items) == 40
    for item, other in itertools.pairwise(items):
        assert item.solved_by(item.answer)
        assert not item.solved_by("I do not know.")
        if item.target != other.target and ability != "one-line function":
            assert not item.solved_by(other.answer)


@pytest.mark.parametrize("ability", ABILITIES)
def test_test_items_never_occur_in_training(ability):
    rng = random.Random(0)
    train = {draw_item(rng, "train", ability).question for _ in range(2000)}
    test = {item.question for item in ability_items(ability, 100)}
    assert not train & test


def test_word_problems_add_up():
    for item in ability_items("word problem", 60):
        start, first, second = (int(number) for number in re.findall(r"\d+", item.question))
        steps = re.split(r" and (?=buys|finds|gets|is given|makes|gives|loses|sells|drops|uses)", item.question)
        signs = [1 if re.search(r"\d+ more", step) else -1 for step in steps]
        assert int(item.target) == start + signs[0] * first + signs[1] * second
        assert int(item.target) >= 0


def test_two_hop_questions_on_continents_follow_from_the_facts():
    capitals, continents = by_kind("capital"), by_kind("continent")
    home = {city: country for country, city in capitals.items()}
    checked = 0
    for item in ability_items("two-hop", 200):
        if match := re.fullmatch(r"Is (.+) the capital of a country in (.+)\?", item.question):
            city, continent = match.groups()
            assert item.target == ("yes" if continents[home[city]] == continent else "no")
            checked += 1
    assert checked > 20


def test_two_hop_answers_are_balanced():
    targets = [item.target for item in ability_items("two-hop", 200)]
    assert targets.count("yes") == targets.count("no") >= 30


def test_one_line_functions_do_what_python_does():
    for item in ability_items("one-line function", 60):
        tree = ast.parse(item.target)
        assert isinstance(tree.body[0], ast.FunctionDef)
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert names - {tree.body[0].args.args[0].arg} <= {"len", "sum", "max", "min", "sorted"}
        scope: dict = {}
        exec(compile(tree, "<reference>", "exec"), scope)  # written by the generator, not by a model
        name, run = compile_line(item.target)
        for value in INPUTS[item.kind]:
            assert run(value) == scope[name](value)


def test_equivalent_lines_count_and_different_ones_do_not():
    reference = "def f(x): return 2 * x + 3"
    assert same_function("def f(x): return 3 + x * 2", reference, "number")
    assert not same_function("def f(x): return 2 * x + 4", reference, "number")
    assert not same_function("def g(x): return 2 * x + 3", reference, "number")
    assert not same_function("def f(x): return x > 0", reference, "number")


@pytest.mark.parametrize(
    "line",
    [
        "def f(x): return __import__('os').getcwd()",
        "def f(x): return open('secret').read()",
        "def f(x): return x.__class__",
        "def f(x): return [y for y in x]",
        "import os",
        "def f(x): return (lambda: 1)()",
        "def f(x, y): return x",
        "def f(x) return",
        "def f(x): return 9 ** 9 ** 9",
        "def f(x): return 'a' * 100000000",
        "",
    ],
)
def test_lines_outside_the_small_language_are_never_run(line):
    assert not same_function(line, "def f(x): return x + 2", "number")
