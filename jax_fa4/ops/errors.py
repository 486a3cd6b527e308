"""Every refusal once: what was wrong, with which value, and what to do instead.

Wrong input is a ValueError. Right but not supported is a NotImplementedError, so that
code which tries one implementation after another works.
"""

from __future__ import annotations

from typing import Any

from jax_fa4.ops.band import UNBOUNDED

Shape = tuple[int, ...]


def wrong_rank(name: str, shape: Shape, expected: str) -> ValueError:
    return ValueError(f"{name} has shape {shape} of rank {len(shape)}, expected {expected}")


def wrong_shape(name: str, shape: Shape, expected: str) -> ValueError:
    return ValueError(f"{name} has shape {shape}, expected {expected}")


def mixed_dtypes(dtypes: dict[str, Any]) -> ValueError:
    found = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
    return ValueError(f"dtypes differ: {found}; cast them to one dtype with .astype")


def unsupported_dtype(name: str, dtype: Any) -> NotImplementedError:
    if str(dtype) == "float64":
        remedy = (
            "attention accumulates in float32: cast with .astype(jnp.float32), or leave the "
            "jax_enable_x64 option off; jax.nn.dot_product_attention computes in float64"
        )
    elif str(dtype) == "float8_e4m3fn":
        remedy = "flash_attention takes it, or cast it with .astype(jnp.bfloat16), which is exact"
    elif str(dtype).startswith("float8"):
        remedy = (
            "cast it with .astype(jnp.bfloat16), or quantise to float8_e4m3fn, which "
            "flash_attention takes, with descales"
        )
    else:
        remedy = "cast it with .astype to bfloat16, float16 or float32"
    return NotImplementedError(f"{name} has dtype {dtype}, which no path takes; {remedy}")


def descale_without_fp8(name: str, dtype: Any) -> ValueError:
    return ValueError(
        f"{name} is given and query, key and value are {dtype}; descales go with float8_e4m3fn: "
        "leave it out, or multiply the array by it"
    )


def bad_descale_dtype(name: str, dtype: Any) -> ValueError:
    return ValueError(f"{name} has dtype {dtype}, expected float32; cast it with .astype")


def no_fp8_gradient() -> NotImplementedError:
    return NotImplementedError(
        "flash_attention of float8_e4m3fn has no gradient, and it was differentiated; cast query, "
        "key and value to bfloat16 for training, or take them as constants with "
        "jax.lax.stop_gradient"
    )


def no_forward_mode() -> NotImplementedError:
    return NotImplementedError(
        "attention was differentiated in forward mode (jax.jvp, jax.jacfwd), which the kernels "
        "cannot do; pass implementation='xla', which can, or take reverse mode (jax.grad, jax.vjp, "
        "jax.jacrev)"
    )


def no_second_derivative() -> NotImplementedError:
    return NotImplementedError(
        "the gradient of attention was differentiated again, which the kernels cannot do; pass "
        "implementation='xla', whose gradient has forward derivatives: jax.jvp of jax.grad, or "
        "jax.hessian"
    )


def heads_do_not_divide(query_heads: int, key_heads: int) -> ValueError:
    return ValueError(
        f"query has {query_heads} heads and key has {key_heads} heads; the query heads must be a "
        "multiple of the key heads (repeat or regroup the heads)"
    )


def no_size(name: str, what: str, shape: Shape) -> ValueError:
    return ValueError(f"{name} of shape {shape} has no {what}; at least one is needed")


def too_long(name: str, length: int) -> ValueError:
    return ValueError(
        f"{name} has length {length}; positions are int32 and lengths must be below 2**30 = "
        f"{UNBOUNDED}: split the sequence"
    )


def bad_window(name: str, value: Any, why: str) -> ValueError:
    return ValueError(
        f"{name} is {value!r}: {why}; give the number of keys seen on each side as "
        "(left, right), None in a slot for no bound"
    )


def bad_mask_dtype(dtype: Any) -> ValueError:
    return ValueError(
        f"mask has dtype {dtype}, expected bool with True = attend; make it one with mask != 0 "
        "(nn.make_causal_mask takes dtype=bool), or pass an additive mask as bias"
    )


def bad_bias_dtype(dtype: Any) -> ValueError:
    return ValueError(
        f"bias has dtype {dtype}, expected bfloat16, float16 or float32; pass a boolean mask as "
        "mask="
    )


def bad_mod(name: str, found: str, expected: str) -> ValueError:
    return ValueError(
        f"{name} is {found}, expected {expected}, for scalars "
        f"({'score, ' if name == 'score_mod' else ''}batch, head, query index, key index)"
    )


def no_dropout_key(rate: float) -> ValueError:
    return ValueError(f"dropout_rate={rate:g} needs a key; pass dropout_rng=jax.random.key(...)")


def traced_dropout_rate() -> NotImplementedError:
    return NotImplementedError(
        "dropout_rate is a traced value, and it must be a number known at trace time; make the "
        "argument static"
    )


def bad_integers(name: str, dtype: Any) -> ValueError:
    return ValueError(
        f"{name} has dtype {dtype}, expected integers of at most 32 bits; cast with "
        ".astype(jnp.int32)"
    )


def lone_segment_ids(name: str, other: str, lengths: tuple[int, int]) -> ValueError:
    return ValueError(
        f"{name} is given without {other}, and query and key have lengths {lengths[0]} and "
        f"{lengths[1]}; one serves both for equal lengths only: pass {other} too"
    )


def lone_cu_seqlens(totals: tuple[int, int]) -> ValueError:
    return ValueError(
        f"cu_seqlens_k is left out, and q and k have {totals[0]} and {totals[1]} tokens; "
        "cu_seqlens_q serves both for equal numbers only: pass cu_seqlens_k"
    )


def bad_choice(name: str, value: Any, choices: tuple[Any, ...]) -> ValueError:
    return ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}")


def bad_number(name: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{name} is {value!r}, expected {expected}")


def bad_option(name: str, known: tuple[str, ...]) -> TypeError:
    return TypeError(f"unexpected option {name!r}; the options are {', '.join(known)}")


def traced_scale(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"{name} is a traced value, and it must be a number known at trace time; scale the query "
        f"instead (query * {name}, with {name}=1.0) or make the argument static"
    )


def traced_softcap(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"{name} is a traced value, and it must be a number known at trace time; make the argument "
        "static"
    )


def bad_sinks_dtype(name: str, dtype: Any) -> ValueError:
    return ValueError(
        f"{name} has dtype {dtype}, expected floating point; cast with .astype(jnp.float32)"
    )


def no_kernel(implementation: str, reason: str) -> NotImplementedError:
    return NotImplementedError(f"implementation={implementation!r} cannot run this call: {reason}")
