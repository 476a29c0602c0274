"""Where the checkpoints of a training are found."""

from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import transformers

from tests.tiny import tiny
from workbench.errors import InputError
from workbench.models.checkpoints import OLMO_7B_0424, PYTHIA, hub_checkpoints, local_checkpoints
from workbench.models.load import load


def test_revisions_become_sources_of_the_hub():
    assert len(OLMO_7B_0424) == 31 and len(PYTHIA) == 154
    olmo = hub_checkpoints("allenai/OLMo-7B-0424-hf", OLMO_7B_0424)
    assert olmo[25000] == "allenai/OLMo-7B-0424-hf@step25000-tokens104B" and max(olmo) == 449000
    pythia = hub_checkpoints("EleutherAI/pythia-70m", PYTHIA)
    assert list(pythia)[:4] == [0, 1, 2, 4] and pythia[143000] == "EleutherAI/pythia-70m@step143000"
    with pytest.raises(InputError, match=r"No step can be read from the revisions of a/b \(main\)"):
        hub_checkpoints("a/b", ["main"])
    with pytest.raises(InputError, match="Step 5 has two checkpoints, a/b@step5 and a/b@step5-tokens1B"):
        hub_checkpoints("a/b", ["step5", "step5-tokens1B"])


def test_the_hub_is_asked_only_without_revisions(monkeypatch):
    branches = [SimpleNamespace(name=name) for name in ("main", "step10", "step2-tokens1B")]
    monkeypatch.setattr(huggingface_hub, "list_repo_refs", lambda repo: SimpleNamespace(branches=branches))
    assert hub_checkpoints("a/b") == {2: "a/b@step2-tokens1B", 10: "a/b@step10"}
    monkeypatch.undo()
    with pytest.raises(InputError, match="The revisions of a/b cannot be listed"):
        hub_checkpoints("a/b")


def test_a_revision_is_loaded_from_the_hub_by_its_name(tmp_path, monkeypatch):
    tiny("llama", torch.float32, 1).save_pretrained(tmp_path / "model")
    real = transformers.AutoModelForCausalLM.from_pretrained
    asked = []

    def from_hub(where, *, revision, **keywords):
        asked.append((where, revision))
        return real(tmp_path / "model", **keywords)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_hub)
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda where, revision, **_: asked.append((where, revision))
    )
    model = load("org/name@step7", device="cpu")
    load("org/name", device="cpu")
    assert asked == [("org/name", "step7")] * 2 + [("org/name", "main")] * 2
    assert model.workbench_name == "org/name@step7"


def test_folders_are_read_by_the_number_at_their_end(tmp_path):
    for name in ("checkpoint-20", "checkpoint-3", "other-5"):
        (tmp_path / name).mkdir()
    for name in ("checkpoint-20", "checkpoint-3"):
        (tmp_path / name / "config.json").write_text("{}")
    assert local_checkpoints(tmp_path) == {
        3: str(tmp_path / "checkpoint-3"),
        20: str(tmp_path / "checkpoint-20"),
    }
    with pytest.raises(InputError, match=r"No checkpoints in .*: it needs subfolders such as step500"):
        local_checkpoints(tmp_path / "other-5")
