"""The Triton kernels agree with the eager path in Triton's interpreter, and compile for GPUs.

On a GPU, tests/gpu runs them.
"""

import os
import subprocess
import sys

import pytest
import torch

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
triton = pytest.importorskip("triton")

from powerstep import PowerStep  # noqa: E402
from powerstep.kernels import step as kernels  # noqa: E402
from powerstep.kernels.triton_kernel import TritonKernel  # noqa: E402
from tests.powerstep.test_paths_agree import (  # noqa: E402
    BASELINES,
    assert_kernels_agree,
    assert_powers_of_subnormal_numbers_agree,
    parameters,
    train,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


@pytest.fixture(autouse=True)
def triton_in_place_of_c(monkeypatch):
    kernels._compiled.cache_clear()
    monkeypatch.setattr(kernels, "CKernel", TritonKernel)
    yield
    kernels._compiled.cache_clear()


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("maximize", [False, True])
def test_fp32_parameters_agree(precision, maximize):
    assert_kernels_agree(state_precision=precision, maximize=maximize, block_size=32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_parameters_and_bf16_state_agree_within_their_rounding(dtype):
    # The interpreter truncates to bf16, where a GPU rounds to nearest.
    for precision in ("bf16", "int8"):
        eager = train(parameters(dtype=dtype), compiled=False, state_precision=precision)
        kernel = train(parameters(dtype=dtype), compiled=True, state_precision=precision)
        for ours, theirs in zip(eager[0], kernel[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2**-5, atol=2e-2)


@pytest.mark.parametrize("beta", [0.0, 0.05, 0.5, 0.9, 1.0])
def test_every_kind_of_exponent_agrees(beta):
    assert_kernels_agree(beta=beta)


def test_powers_of_subnormal_numbers_agree():
    assert_powers_of_subnormal_numbers_agree("cpu")


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_agree(name):
    cls, arguments = BASELINES[name]
    assert_kernels_agree(cls=cls, atol=1e-6, **arguments)


_COMPILE = """
import sys, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from powerstep.kernels.formula import Variant
from powerstep.kernels.triton_kernel import OPTIONS, _imported
from powerstep.kernels.triton_source import triton_source
precision, block_size = sys.argv[1], int(sys.argv[2])
text = "momentum = gamma * momentum + grad\\ntheta = theta - lr * signed_power(momentum)"
dtype = torch.bfloat16

def assembly(power, stochastic):
    variant = Variant(
        text, ("lr", "gamma"), power, ("momentum",), precision, block_size, dtype, dtype, False,
        stochastic,
    )
    types = {name: "*i64" for name in ("first", "parameter", "numels", "addresses")}
    types |= {"numbers": "*fp32", "exponent": "fp32", "seed": "i32", "ALIGNED": "constexpr"}
    source = ASTSource(_imported(triton_source(variant)).step, types, constexprs={"ALIGNED": True})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=OPTIONS).asm

made = assembly("power", stochastic=True)
print("st.global.v4" in made["ptx"], len(made["cubin"]) > 0)
# The power itself may have fused multiply-adds.
print("fma." not in assembly("sign", stochastic=False)["ptx"])
"""


@pytest.mark.parametrize(
    ("precision", "block_size"), [("fp32", 0), ("bf16", 0), ("int8", 128), ("int4", 64)]
)
def test_kernels_compile_for_an_h100_move_16_bytes_at_once_and_fuse_nothing(precision, block_size):
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE, precision, str(block_size)],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["True", "True", "True"], done.stderr


def test_stochastic_rounding_has_the_right_expectation():
    torch.manual_seed(0)
    param = torch.nn.Parameter(torch.ones(20_000).bfloat16())
    param.grad = torch.ones_like(param)
    PowerStep([param], lr=2**-10, beta=0.0, stochastic_rounding=True).step()
    # A quarter of the spacing of bf16 numbers below 1; four standard errors of the share.
    assert (param < 1).float().mean().item() == pytest.approx(0.25, abs=0.0125)
