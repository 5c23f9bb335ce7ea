"""Several processes train as one process does, and one loads the checkpoints of several."""

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import CheckpointException

from tests.powerstep import sharded_workers as workers
from tests.powerstep.sharded_workers import CASES, FOR_ANY, FOR_AS_MANY, PRECISIONS

# Warnings about checkpoints that the tests' own process saves and loads.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def one(folder):
    """Return the results of one process."""
    return workers.train(folder / "one")


@pytest.fixture(scope="module")
def two(folder, one):
    """Return the results of two processes; they load checkpoints of one."""
    return workers.spawn(2, workers.train_and_resume, folder)


@pytest.fixture(scope="module")
def four(folder):
    """Return the results of four processes."""
    return workers.spawn(4, workers.step_on_meshes, folder)


def assert_equal(actual, expected):
    """Assert equal names, dtypes, shapes and bits."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def names(*firsts):
    return [name for name in CASES if name.split()[0] in firsts]


def alone(name, rank):
    """Train the shards in one process, each as a parameter of its own."""
    case = CASES[name]
    model = workers.Parameters(case)
    for key, param in list(model.named_parameters()):
        shard = param.detach().tensor_split(2)[rank].clone()
        model.register_parameter(key, nn.Parameter(shard))
    optimizer = case.optimizer(model.parameters(), **{"lr": workers.LR} | case.arguments)
    workers.take_steps(
        model,
        optimizer,
        case.shapes.values(),
        range(workers.STEPS),
        place=lambda grad, _: grad.tensor_split(2)[rank],
    )
    return workers.contents(model, optimizer)["own"]


@pytest.mark.parametrize("kind", PRECISIONS)
def test_ddp_on_halves_of_a_batch_is_one_process_on_the_whole_bit_for_bit(one, two, kind):
    for results in two:
        assert_equal(results["exact"][kind], one["exact"][kind])


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_network_learns_as_in_one_process(one, two, way):
    learned = two[0]["learned"][way]
    assert learned["losses"][-5:].mean() < learned["losses"][:5].mean() / 3
    # Gradients are summed in another order. β = 0.1 magnifies the difference if a momentum nearly
    # cancels to 0. 1e-5 is 1/300 of a step.
    torch.testing.assert_close(learned, one["learned"][way], rtol=1e-5, atol=1e-5)
    assert_equal(two[1]["learned"][way], learned)


@pytest.mark.parametrize(
    "name", [*names("whole", "foreach", "short", "columns", "bf16"), *workers.BASELINES]
)
def test_shards_of_whole_blocks_are_stepped_on_as_in_one_process_bit_for_bit(one, two, name):
    for results in two:
        actual = results["given"][name]["trained"]["whole"]
        assert_equal(actual, one["given"][name]["trained"]["whole"])


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_a_state_without_blocks_is_that_of_one_process_however_shards_are_cut(one, two, kind):
    expected = one["given"][f"cut {kind}"]["trained"]["whole"]
    for results in two:
        actual = results["given"][f"cut {kind}"]["trained"]["whole"]
        for name in expected:
            assert_equal(actual[name]["momentum"], expected[name]["momentum"])
            # On a CPU, torch uses another power function for the rest of an incomplete vector.
            torch.testing.assert_close(
                actual[name]["param"], expected[name]["param"], rtol=1e-6, atol=1e-6
            )


@pytest.mark.parametrize("name", names("cut", "linear"))
def test_where_shards_cut_blocks_each_process_has_blocks_of_its_own(two, name):
    for rank, results in enumerate(two):
        actual = results["given"][name]["trained"]["own"]
        for param, tensors in alone(name, rank).items():
            for key, expected in tensors.items():
                stored, length = actual[param][key].flatten(), expected.numel()
                assert_equal(stored[:length], expected.flatten())
                assert not stored[length:].any()  # the smaller shard is padded with zeros


@pytest.mark.parametrize(("kind", "largest_code"), [("int8", 127), ("int4", 7)])
def test_blocks_of_each_process_differ_from_one_process_by_rounding_alone(
    one, two, kind, largest_code
):
    expected = one["given"][f"linear {kind}"]["trained"]["whole"]
    actual = two[0]["given"][f"linear {kind}"]["trained"]["whole"]
    for index, (name, shape) in enumerate(workers.CUT_BLOCKS.items()):
        momentum, error, bound = torch.zeros(shape), 0.0, 0.0
        for step in range(workers.STEPS):
            momentum = 0.9 * momentum + workers.gradient(shape, step, index)
            error *= 0.9
            bound += workers.LR * error  # at β = 1, θ moves by η·m
            # Storing m adds half a code, of a block whose maximum has the error so far.
            error += (momentum.abs().max().item() + error) / largest_code / 2
        difference = (actual[name]["param"] - expected[name]["param"]).abs().max().item()
        assert difference <= 2 * bound + 1e-5  # both are within `bound` of the unrounded result
        # One process has the only row, so its blocks are the same as in a single process.
        assert (difference == 0) == (name == "one_row")


@pytest.mark.parametrize("kind", PRECISIONS)
def test_each_process_keeps_the_state_of_its_own_shard_alone(two, kind):
    bytes_per_element = {"fp32": 4, "bf16": 2, "int8": 1 + 4 / 128, "int4": 1 / 2 + 4 / 128}
    for rank, results in enumerate(two):
        for name, tensors in results["given"][f"whole {kind}"]["trained"]["own"].items():
            shape = workers.WHOLE_BLOCKS[name]
            numel = torch.empty(shape).tensor_split(2)[rank].numel()
            state = [value for key, value in tensors.items() if key != "param"]
            size = sum(value.numel() * value.element_size() for value in state)
            assert size == numel * bytes_per_element[kind]


@pytest.mark.parametrize("name", FOR_ANY)
def test_one_process_loads_what_two_saved_and_goes_on_bit_for_bit(folder, one, two, name):
    resumed = workers.resume(name, folder / "two")
    assert_equal(resumed["loaded"], one["given"][name]["trained"])
    assert_equal(resumed["continued"], one["given"][name]["continued"])


@pytest.mark.parametrize("name", FOR_ANY)
def test_two_processes_load_what_one_saved_and_go_on_bit_for_bit(one, two, name):
    for results in two:
        for actual, stage in (("loaded", "trained"), ("continued", "continued")):
            expected = one["given"][name][stage]["whole"]
            assert_equal(results["from one"][name][actual]["whole"], expected)


@pytest.mark.parametrize("name", FOR_AS_MANY)
def test_two_processes_load_blocks_of_their_own_and_go_on_bit_for_bit(two, name):
    for results in two:
        assert_equal(results["from two"][name]["loaded"], results["given"][name]["trained"])
        assert_equal(results["from two"][name]["continued"], results["given"][name]["continued"])


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_blocks_cut_for_two_processes_are_refused_by_one_and_not_misread(folder, two, kind):
    case = workers.Case({"vector": workers.CUT_BLOCKS["vector"]}, workers.kept_in(kind))
    model, optimizer = workers.build(case)
    with pytest.raises(CheckpointException, match="Size mismatch"):
        workers.load(model, optimizer, folder / "two" / f"cut {kind}")


@pytest.mark.parametrize(
    ("kind", "dtypes"),
    [
        ("fp32", {"momentum": torch.float32}),
        ("bf16", {"momentum": torch.bfloat16}),
        ("int8", {"momentum_codes": torch.int8, "momentum_scales": torch.float32}),
        ("int4", {"momentum_codes": torch.uint8, "momentum_scales": torch.float32}),
    ],
)
def test_a_state_loaded_by_other_processes_keeps_its_dtypes(folder, two, kind, dtypes):
    name = f"whole {kind}"
    for loaded in (
        workers.resume(name, folder / "two")["loaded"]["whole"],
        two[0]["from one"][name]["loaded"]["own"],
    ):
        for tensors in loaded.values():
            found = {key: value.dtype for key, value in tensors.items() if key != "param"}
            assert found == dtypes


def test_a_gathered_state_is_that_of_one_process(one, two):
    expected = one["given"]["whole int8"]["trained"]["whole"]
    for name, state in two[0]["gathered"]["whole int8"]["gathered"].items():
        assert_equal(state | {"param": expected[name]["param"]}, expected[name])


@pytest.mark.parametrize("name", ["whole int8", "cut int8"])
def test_a_gathered_state_is_shared_out_again(two, name):
    for results in two:
        assert_equal(results["gathered"][name]["scattered"], results["given"][name]["trained"])


@pytest.mark.parametrize("kind", PRECISIONS)
def test_fsdp_over_tensor_parallel_is_one_process_bit_for_bit(four, kind):
    expected = workers.step_on_a_mesh(kind)
    for results in four:
        actual = dict(results[kind])
        if kind in ("int8", "int4"):  # each process has its own block of the first bias
            cut = actual.pop("0.bias")
            assert cut["momentum_scales"].numel() == 4
            assert all(value.isfinite().all() for value in cut.values())
        assert_equal(actual, {name: expected[name] for name in actual})
