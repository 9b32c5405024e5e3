"""What the loops of this folder are made of: functions of single float32 numbers that the compiler turns into vector code.

A loop over numpy's or the C library's exp calls it once for each number; written as polynomials, sixteen go through the
processor at once. Errors are below 2 units in the last place over the whole range; results saturate rather than overflow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

F = np.float32
# a product and a sum may be one instruction, NaN and infinity keep their meaning; a division by zero gives infinity rather
# than an exception, whose test would keep a loop from becoming vector code
_exact: dict[str, Any] = {"fastmath": {"contract", "nsz", "arcp"}, "error_model": "numpy"}
_inlined = {**_exact, "inline": "always"}
lane_loops = {**_exact, "nogil": True, "cache": True}


@intrinsic
def _bits(typing: Any, x: Any) -> Any:
    """The bits of a float32 as int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _number(typing: Any, bits: Any) -> Any:
    """The float32 with these bits (int32)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@njit(**_inlined)
def exp(x: Any) -> Any:
    """eˣ, by 2ⁿ · eʳ with |r| ≤ ½ log 2."""
    x = min(max(x, F(-87.0)), F(88.0))
    n = np.floor(x * F(1.44269504088896341) + F(0.5))
    r = x - n * F(0.693359375) + n * F(2.12194440e-4)
    p = F(1.9875691500e-4)
    p = p * r + F(1.3981999507e-3)
    p = p * r + F(8.3334519073e-3)
    p = p * r + F(4.1665795894e-2)
    p = p * r + F(1.6666665459e-1)
    p = p * r + F(5.0000001201e-1)
    p = p * r * r + r + F(1.0)
    return p * _number((np.int32(n) + np.int32(127)) << np.int32(23))  # type: ignore[call-arg]


@njit(**_inlined)
def log(x: Any) -> Any:
    """log x for positive normal x, by the exponent and a polynomial of the mantissa."""
    bits: Any = _bits(x)  # type: ignore[call-arg]
    e = F((bits >> np.int32(23)) - np.int32(126))
    # the mantissa, in [0.5, 1)
    m: Any = _number((bits & np.int32(0x007FFFFF)) | np.int32(0x3F000000))  # type: ignore[call-arg]
    small = m < F(0.70710678)
    e = e - F(1.0) if small else e
    m = m + m - F(1.0) if small else m - F(1.0)
    z = m * m
    p = F(7.0376836292e-2)
    p = p * m + F(-1.1514610310e-1)
    p = p * m + F(1.1676998740e-1)
    p = p * m + F(-1.2420140846e-1)
    p = p * m + F(1.4249322787e-1)
    p = p * m + F(-1.6668057665e-1)
    p = p * m + F(2.0000714765e-1)
    p = p * m + F(-2.4999993993e-1)
    p = p * m + F(3.3333331174e-1)
    y = m * z * p + e * F(-2.12194440e-4) - F(0.5) * z
    return m + y + e * F(0.693359375)


@njit(**_inlined)
def softplus(x: Any) -> Any:
    """log(1 + eˣ)."""
    return max(x, F(0.0)) + log(F(1.0) + exp(-abs(x)))


@njit(**_inlined)
def sigmoid(x: Any) -> Any:
    """1 / (1 + e⁻ˣ)."""
    return F(1.0) / (F(1.0) + exp(-x))
