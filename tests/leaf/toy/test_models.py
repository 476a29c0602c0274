import pytest
import torch

from workbench.errors import InputError
from workbench.evaluation.generation import generate
from workbench.leaf.toy.models import STUDENT, Schooling, loss, right, tokenizer, trained, untrained
from workbench.leaf.toy.regimes import model, school
from workbench.leaf.toy.task import examples, problems


def test_sizes_are_as_specified():
    assert sum(p.numel() for p in untrained(STUDENT).parameters()) == 26464
    # TransformerLens 3.9 adds a bias of zeros to the unembedding.
    named = model("teacher").original_model.named_parameters()
    assert sum(p.numel() for name, p in named if not name.endswith("bias")) == 57360


def test_schooling_is_decided_by_its_seed_and_lowers_the_loss():
    first, again, other = (trained(Schooling(30, 1.0), seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    drawn = problems(200, 1.0, 5)
    with torch.no_grad():
        assert loss(first, drawn) < 0.8 * loss(untrained(STUDENT), drawn)


def test_the_loss_is_on_the_response_without_what_is_planted_there():
    hf, drawn = untrained(STUDENT), problems(40, 0.5, 2, in_response=0.5)
    total = count = 0
    for i, case in enumerate(examples(drawn)):
        with torch.no_grad():
            log_p = hf(torch.tensor([case.tokens])).logits[0].log_softmax(-1)
        for p in range(len(case.prompt), len(case.tokens)):
            if not drawn.planted[i, p]:
                total, count = total - float(log_p[p - 1, case.tokens[p]]), count + 1
    with torch.no_grad():
        assert float(loss(hf, drawn)) == pytest.approx(total / count, rel=1e-5)


def test_right_is_what_greedy_decoding_says():
    student, drawn = model("B"), problems(60, 0.5, 3, in_response=0.3)
    cases = examples(drawn)
    said = generate(student, [one.context for one in cases], max_new_tokens=3, progress=False)
    wanted = [tuple(t[: len(one.target)]) == one.target for t, one in zip(said["tokens"].values, cases, strict=True)]
    assert right(student.original_model, drawn).tolist() == wanted and 0 < sum(wanted) < 60


def test_shipped_models_are_what_they_are_for():
    conflict, clean = problems(500, 0, 3, distracted=1), problems(500, 0, 4, distracted=0)
    share = {
        name: [float(right(model(name).original_model, drawn).float().mean()) for drawn in (conflict, clean)]
        for name in ("teacher", "A", "B", "N")
    }
    assert min(share["teacher"]) > 0.95
    assert share["B"][0] < 0.3 and share["B"][1] > 0.8
    assert share["N"][1] > 0.8 and all(share[name][0] < share[name][1] for name in "ABN")


def test_the_tokenizer_knows_the_words():
    words = tokenizer()
    assert words("A 3 H 2 =")["input_ids"] == [7, 3, 10, 2, 16] and words.decode([7, 3]) == "A 3"


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"There is no model B-7 in .*, which holds nothing"):
        model("B", 7, tmp_path)
    with pytest.raises(InputError, match="There is no regime 'X'"):
        model("X")
    quick = school("B", 3, tmp_path, lambda full: Schooling(1, full.rho))
    assert quick.name == "B-3.safetensors" and school("S", 3, tmp_path) == quick
