"""Two processes that share the data or the parameters train as one does, and share checkpoints."""

import pytest
import torch

from tests.powerstep import sharded_workers as workers
from tests.powerstep.sharded_workers import CASES, CUT_BLOCKS, PRECISIONS, RESHARDED, WHOLE_BLOCKS

# Every process has whole blocks, so that they are the blocks of one process.
EXACT = [name for name, case in CASES.items() if case.shapes is not CUT_BLOCKS]
DTYPES = {
    "fp32": {torch.float32},
    "bf16": {torch.bfloat16},
    "int8": {torch.int8, torch.float32},
    "int4": {torch.uint8, torch.float32},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the results of one process and of each of two, which also loaded each other's."""
    folder = tmp_path_factory.mktemp("sharded")
    torch.save(workers.train(folder / "one"), folder / "one.pt")
    torch.multiprocessing.spawn(workers.work, (str(folder),), nprocs=workers.PROCESSES)
    results = {
        name: torch.load(folder / f"{name}.pt", weights_only=True) for name in ("one", "0", "1")
    }
    return results | {"folder": folder}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        if isinstance(tensor, dict):
            assert_equal(tensor, other[name])
        else:
            assert tensor.dtype == other[name].dtype, name
            assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("name", EXACT)
def test_sharded_steps_are_those_of_one_process_bit_for_bit(trained, name):
    for rank in ("0", "1"):
        assert_equal(
            trained["one"][name]["trained"]["whole"], trained[rank][name]["trained"]["whole"]
        )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_process_holds_its_shard_alone(trained, precision):
    name = f"whole {precision}"
    shapes = [trained[rank][name]["trained"]["own"]["uneven"]["param"].shape for rank in "01"]
    assert shapes == [(3, 256), (2, 256)]
    assert trained["1"][name]["trained"]["own"]["one_row"]["param"].numel() == 0
    for param in WHOLE_BLOCKS:
        own = [trained[rank][name]["trained"]["own"][param] for rank in "01"]
        whole = trained["one"][name]["trained"]["whole"][param]
        for key in whole:
            assert sum(part[key].numel() for part in own) == whole[key].numel()
            assert own[0][key].dtype == own[1][key].dtype == whole[key].dtype


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_state_of_shards_keeps_the_precision_asked_for(trained, precision):
    for values in trained["0"][f"whole {precision}"]["trained"]["own"].values():
        assert {v.dtype for key, v in values.items() if key != "param"} == DTYPES[precision]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_shards_of_any_size_are_exact_without_blocks(trained, precision):
    name = f"cut {precision}"
    assert_equal(trained["one"][name]["trained"]["whole"], trained["0"][name]["trained"]["whole"])


@pytest.mark.parametrize("bits", [8, 4])
def test_blocks_cut_by_shards_are_each_processs_own_and_differ_by_less_than_a_code(trained, bits):
    # With β = 1 a step is the momentum, so that parameters differ by what its rounding does: half a
    # code a step on either side, which the momentum and the sum over steps carry on.
    name = f"linear int{bits}"
    one, two = (trained[r][name]["trained"]["whole"] for r in ("one", "0"))
    largest_gradient = max(
        workers.gradient(shape, step, index).abs().max().item()
        for index, shape in enumerate(CUT_BLOCKS.values())
        for step in range(workers.STEPS)
    )
    largest_momentum = 10 * largest_gradient
    code = largest_momentum / (2 ** (bits - 1) - 1)
    for param in CUT_BLOCKS:
        difference = (one[param]["param"] - two[param]["param"]).abs().max().item()
        assert difference < 1e-2 * workers.STEPS * 10 * code
        assert two[param]["param"].isfinite().all()
    assert any(not torch.equal(one[p]["param"], two[p]["param"]) for p in CUT_BLOCKS)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_data_parallel_processes_train_as_one(trained, precision):
    for rank in ("0", "1"):
        name = f"exact ddp {precision}"
        assert_equal(trained["one"][name], trained[rank][name])


@pytest.mark.parametrize("kind", ["ddp fp32", "fsdp fp32"])
def test_a_network_learns_on_two_processes_what_it_does_on_one(trained, kind):
    one, two = trained["one"][f"learning {kind}"], trained["0"][f"learning {kind}"]
    assert one["losses"][-1] < 0.7 * one["losses"][0]
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RESHARDED)
def test_one_process_loads_what_two_saved_and_goes_on_bit_for_bit(trained, name):
    resumed = workers.resume(CASES[name], trained["folder"] / "two" / name)
    assert_equal(trained["one"][name]["trained"]["whole"], resumed["loaded"]["whole"])
    assert_equal(trained["one"][name]["continued"]["whole"], resumed["resumed"]["whole"])


@pytest.mark.parametrize("name", RESHARDED)
def test_two_processes_load_what_one_saved_and_go_on_bit_for_bit(trained, name):
    for rank in ("0", "1"):
        resumed = trained[rank]["from one"][name]
        assert_equal(trained["one"][name]["trained"]["whole"], resumed["loaded"]["whole"])
        assert_equal(trained["one"][name]["continued"]["whole"], resumed["resumed"]["whole"])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_processes_load_their_own_blocks_and_go_on_bit_for_bit(trained, precision):
    name = f"cut {precision}"
    for rank in ("0", "1"):
        resumed = trained[rank]["from two"][name]
        assert_equal(trained[rank][name]["trained"], resumed["loaded"])
        assert_equal(trained[rank][name]["continued"], resumed["resumed"])


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_blocks_of_two_processes_are_refused_by_one(trained, precision):
    name = f"cut {precision}"
    with pytest.raises(torch.distributed.checkpoint.CheckpointException, match="ize mismatch"):
        workers.resume(CASES[name], trained["folder"] / "two" / name)
