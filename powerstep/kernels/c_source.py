"""The C source of a kernel for the CPU."""

from collections.abc import Iterable
from pathlib import Path

import torch

from powerstep.kernels.formula import Variant

CHUNK = 2**16  # elements that a thread updates at a time, at most
_TYPES = {torch.float32: "float", torch.bfloat16: "bf16", torch.float16: "_Float16"}
_PRELUDE = Path(__file__).with_name("prelude.c")
_POWERS = {"sign": "sign_of(x)", "identity": "(x)"}

_KERNEL = """
void step(int64_t chunks, const int64_t *first, const int64_t *parameter, const int64_t *numels,
          const int64_t *addresses, const float *numbers, const float *coefficients,
          uint32_t seed, int threads) {{
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t chunk = 0; chunk < chunks; chunk++) {{
        const int64_t t = parameter[chunk], start = first[chunk], rest = numels[t] - start;
        const int64_t count = rest < {chunk} ? rest : {chunk};
        const float *own = numbers + t * {number_count};
        const float {numbers};
        float c[15];
        memcpy(c, coefficients, sizeof c);
        const uint32_t salt = mixed(seed ^ mixed((uint32_t)t));
        (void)salt;
        {pointers}
{body}
    }}
}}
"""

_FULL_BODY = """
#pragma omp simd
        for (int64_t i = 0; i < count; i++) {{
{load_buffers}
{update}
{store_buffers}
        }}
"""

_BLOCKWISE_BODY = """
        for (int64_t o = 0; o < count; o += {block}) {{
            const int64_t length = count - o < {block} ? count - o : {block};
{load_blocks}
#pragma omp simd
            for (int64_t j = 0; j < length; j++) {{
                const int64_t i = o + j;
{load_buffers}
{update}
{store_buffers}
            }}
{store_blocks}
        }}
"""


def chunk_size(variant: Variant) -> int:
    """Return the elements of a chunk: a multiple of the block size."""
    block = variant.block_size or 1
    return CHUNK // block * block


def c_source(variant: Variant) -> str:
    """Return the source of a function `step` that updates all parameters, chunk by chunk.

    Its arguments are the number of chunks; the first element of each; the number of its parameter;
    for each parameter the number of elements, a row of addresses (parameter, gradient, parts of
    the state) and a row of hyperparameters; `power_coefficients`; a random seed; and the number of
    threads.
    """
    power = _POWERS.get(variant.power, "signed_power_of(x, c)")
    parts = [
        "#define WIDE" if variant.power == "wide" else "",
        _PRELUDE.read_text(encoding="utf-8"),
        f"#define signed_power(x) {power}",
    ]
    kernel = _KERNEL.format(
        chunk=chunk_size(variant),
        number_count=len(variant.numbers),
        numbers=", ".join(f"{name} = own[{i}]" for i, name in enumerate(variant.numbers)),
        pointers="\n        ".join(_pointers(variant)),
        body=_blockwise_body(variant) if variant.block_size else _full_body(variant),
    )
    return "\n".join([*parts, kernel])


def _pointers(variant: Variant) -> list[str]:
    """Return the declarations of the pointers to the first elements of a chunk."""
    param, grad = _TYPES[variant.param_dtype], _TYPES[variant.grad_dtype]
    types = [(param, "param", 1), (f"const {grad}", "gradient", 1)]
    for name in variant.buffers:
        if variant.precision == "int8":
            types += [
                ("int8_t", f"{name}_codes", 1),
                ("float", f"{name}_scales", variant.block_size),
            ]
        elif variant.precision == "int4":
            types += [
                ("uint8_t", f"{name}_codes", 2),
                ("float", f"{name}_scales", variant.block_size),
            ]
        else:
            types.append(("bf16" if variant.precision == "bf16" else "float", f"{name}_stored", 1))
    return [
        f"{kind} *restrict {name} = ({kind} *)addresses[t * {len(types)} + {row}] + start / {span};"
        for row, (kind, name, span) in enumerate(types)
    ]


def _update(variant: Variant) -> str:
    lines = [
        f"float theta = {_loaded('param[i]', variant.param_dtype)};",
        f"const float grad = {'-' * variant.maximize}{_loaded('gradient[i]', variant.grad_dtype)};",
    ]
    given = {"theta", *variant.buffers}
    for name, value in variant.statements:
        lines.append(f"{'' if name in given else 'float '}{name} = {value};")
        given.add(name)
    stored = _stored("theta", variant.param_dtype)
    if variant.stochastic:
        stored = "to_bf16_stochastic(theta, mixed(salt + (uint32_t)(start + i)))"
    return _indented([*lines, f"param[i] = {stored};"])


def _full_body(variant: Variant) -> str:
    dtype = torch.bfloat16 if variant.precision == "bf16" else torch.float32
    return _FULL_BODY.format(
        load_buffers=_indented(
            f"float {name} = {_loaded(f'{name}_stored[i]', dtype)};" for name in variant.buffers
        ),
        update=_update(variant),
        store_buffers=_indented(
            f"{name}_stored[i] = {_stored(name, dtype)};" for name in variant.buffers
        ),
    )


def _blockwise_body(variant: Variant) -> str:
    block, names, precision = variant.block_size, variant.buffers, variant.precision
    codes = "o" if precision == "int8" else "o / 2"
    return _BLOCKWISE_BODY.format(
        block=block,
        load_blocks=_indented(
            f"float {name}_block[{block + block % 2}];"
            f" load_{precision}({name}_codes + {codes}, {name}_scales[o / {block}], {name}_block,"
            " length);"
            for name in names
        ),
        load_buffers=_indented(f"float {name} = {name}_block[j];" for name in names),
        update=_update(variant),
        store_buffers=_indented(f"{name}_block[j] = {name};" for name in names),
        store_blocks=_indented(
            f"{name}_scales[o / {block}] ="
            f" store_{precision}({name}_block, {name}_codes + {codes}, length);"
            for name in names
        ),
    )


def _loaded(value: str, dtype: torch.dtype) -> str:
    return f"from_bf16({value})" if dtype == torch.bfloat16 else f"(float){value}"


def _stored(value: str, dtype: torch.dtype) -> str:
    return f"to_bf16({value})" if dtype == torch.bfloat16 else f"({_TYPES[dtype]}){value}"


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(16 * " " + line for line in lines)
