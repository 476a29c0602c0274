import pytest
import torch

from tests.tuning.chat import chat_model, dialogues
from workbench.errors import InputError
from workbench.models.anatomy import anatomy
from workbench.models.original import added_parameters, unwrapped
from workbench.tuning.pinpoint import parameter_count, pinpoint_tune
from workbench.tuning.recipe import TuningRecipe

QUICK = TuningRecipe(steps=2, batch=4, micro_batch=4, learning_rate=1e-2)
TOKENS = torch.tensor([[1, 3, 9, 12, 6, 4]])


def tune(model, units, **options):
    return pinpoint_tune(model, dialogues(), units, recipe=options.pop("recipe", QUICK), progress=False, **options)


def named(model):
    with unwrapped(model) as hf:
        return {name: p.detach().clone() for name, p in hf.named_parameters()}


@pytest.mark.parametrize("family", ("llama", "qwen2", "gpt2", "gpt_neox"))
def test_the_given_model_stays_as_it_is_and_the_copy_changes_in_the_units(family):
    model = chat_model(family)
    before, logits = named(model), model(TOKENS)
    tuned, record = tune(model, [(1, 2)])
    assert all(torch.equal(p, before[name]) for name, p in named(model).items())
    assert torch.equal(model(TOKENS), logits)
    after = named(tuned)
    assert after.keys() == before.keys()
    changed = sum(int((after[name] != p).sum()) for name, p in before.items())
    assert 0.9 * record.attrs["tuned_parameters"] < changed <= record.attrs["tuned_parameters"]
    assert all(torch.equal(p, after[name]) for name, p in before.items() if ".1." not in name)
    assert record.attrs["tuned_parameters"] == parameter_count(model, [(1, 2)])


def test_the_last_loss_is_that_of_the_returned_model():
    from workbench.tuning.tokens import rows_of
    from workbench.tuning.training import summed_loss

    tuned, record = tune(chat_model("gpt_neox"), [(0, 0), (2, 1)], validation=dialogues(3))
    rows = rows_of(tuned, dialogues(3))
    loss = float(summed_loss(tuned.original_model, rows)) / sum(row.labels for row in rows)
    assert float(record["validation"][-1]) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("units", ("attention", "all"))
def test_attention_alone_or_everything_can_be_tuned(units):
    model = chat_model("llama", torch.float32)
    before = named(model)
    tuned, record = tune(model, units)
    changed = {name for name, p in named(tuned).items() if not torch.equal(p, before[name])}
    with unwrapped(model) as hf:
        own = before.keys() - added_parameters(hf).keys()
    assert changed == {name for name in own if units == "all" or "self_attn" in name}
    assert record.attrs["units"] == {"attention": "all attention", "all": "all parameters"}[units]


def test_half_precision_models_are_tuned_in_float32_and_rounded_once():
    model = chat_model("llama", torch.bfloat16)
    tuned, record = tune(model, [(1, 2)])
    assert anatomy(tuned).dtype == "bfloat16"
    assert 0 < record.attrs["lost_in_rounding"] < 0.2
    assert tune(model, "attention").model.original_model.dtype == torch.bfloat16


def test_the_record_says_what_was_done():
    tuned, record = tune(chat_model(), [(1, 2), (0, 1)])
    assert tuned.workbench_tuning is record
    assert record.attrs["heads"] == [[0, 1], [1, 2]]
    assert record.attrs["dialogues"] == 8 and record.attrs["steps"] == 2
    assert anatomy(tuned).name == "LlamaForCausalLM, tuned"
    assert not any(p.requires_grad for p in tuned.parameters())


def test_a_model_with_an_active_intervention_is_refused():
    model = chat_model()
    hook = [("blocks.0.attn.hook_z", lambda z, hook: z * 0)]
    with model.hooks(fwd_hooks=hook), pytest.raises(InputError, match="intervention is active"):
        tune(model, [(0, 0)])


def test_a_model_without_a_tokenizer_is_refused():
    from tests.tiny import bridge

    with pytest.raises(InputError, match="no tokenizer"):
        tune(bridge("llama"), [(0, 0)])


def test_no_updates_between_two_looks_are_refused():
    with pytest.raises(InputError, match="every=0"):
        tune(chat_model(), [(0, 0)], every=0)
