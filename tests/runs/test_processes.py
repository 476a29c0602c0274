import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from tests.tuning.several import RUNS, tune, weights
from workbench.errors import InputError
from workbench.runs import processes
from workbench.runs.processes import Processes, shard_like, whole
from workbench.runs.results import open_result

TOLERANCE = {torch.float64: 3e-8, torch.bfloat16: 2e-2}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folder that two processes, as torchrun starts them, have written; once for all workers of a test run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "pair"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            _run_two(folder)
    return folder


def _run_two(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.tuning.several", str(folder)]
    running = [
        subprocess.Popen(command, env=shared | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    errors = [process.communicate(timeout=600)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)


@pytest.mark.parametrize("run", ["ddp-llama", "ddp-leak", *(f"fsdp-{name}" for name in RUNS)])
def test_two_processes_have_the_curve_and_the_weights_of_one(pair, run):
    name = run.split("-", 1)[1]
    one, dtype = tune(name), RUNS[name][1]
    for rank in "01":
        record = open_result(pair / f"{run}-{rank}.nc")
        for curve in one.record:
            np.testing.assert_allclose(record[curve], one.record[curve], rtol=TOLERANCE[dtype], err_msg=curve)
        assert record.attrs["processes"] == 2 and one.record.attrs["processes"] == 1
        after = load_file(pair / f"{run}-{rank}.safetensors")
        for key, p in weights(one.model).items():
            torch.testing.assert_close(after[key], p, rtol=1e-6 if dtype == torch.float64 else 2e-2, atol=1e-6)


@pytest.mark.parametrize("mode", ("ddp", "fsdp"))
def test_a_killed_run_of_two_processes_goes_on_with_the_same_curve(pair, mode):
    whole_run, resumed = (open_result(pair / f"{mode}-{name}-0.nc") for name in ("leak", "resumed"))
    for curve in whole_run:
        assert np.array_equal(whole_run[curve], resumed[curve], equal_nan=True), curve
    first, other = (load_file(pair / f"{mode}-{name}-1.safetensors") for name in ("leak", "resumed"))
    assert all(torch.equal(p, other[key]) for key, p in first.items())


def test_one_process_goes_on_where_two_were_killed(pair):
    """The file of the two, finished by now, belongs to a run of one as well."""
    again = tune("leak", resume=pair / "fsdp.state")
    np.testing.assert_allclose(again.record["loss"], open_result(pair / "fsdp-leak-0.nc")["loss"], rtol=1e-12)


def test_shards_hold_moments_of_the_slices_alone_and_half_of_everything(pair):
    count = tune("llama").record.attrs["tuned_parameters"]
    sizes = [load_file(pair / f"fsdp-llama-{rank}.sizes") for rank in "01"]
    assert sum(int(size["moments"][0]) for size in sizes) == 2 * count
    own, everything = sizes[0]["parameters"].tolist()
    assert 0.45 < own / everything < 0.55
    assert load_file(pair / "ddp-llama-0.sizes")["moments"][0] == 2 * count


def test_only_the_first_of_several_processes_writes_the_checkpoint(pair):
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(pair / "exported", dtype=torch.float64)
    after = load_file(pair / "fsdp-llama-0.safetensors")
    assert all(torch.equal(p, after[name]) for name, p in hf.named_parameters())


def test_alone_nothing_is_wrapped_and_no_mark_stays():
    hf = torch.nn.Linear(2, 2)
    run = Processes(hf, torch.optim.AdamW(hf.parameters()))
    assert run.model is hf and run.count == 1 and run.first
    run.release()
    assert "_is_accelerate_prepared" not in hf.__dict__
    assert run.summed(0.25) == 0.25 and whole(hf.weight) is hf.weight
    assert torch.equal(shard_like(torch.ones(2), hf.bias), torch.ones(2))


def test_the_first_version_of_fsdp_is_refused(monkeypatch):
    class Flat:
        distributed_type, is_fsdp2 = processes.DistributedType.FSDP, False

    monkeypatch.setattr(processes, "Accelerator", lambda **_: Flat())
    with pytest.raises(InputError, match="--fsdp_version 2"):
        Processes(torch.nn.Linear(1, 1), torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]))
