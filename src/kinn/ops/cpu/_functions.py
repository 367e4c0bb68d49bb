"""Elementary functions of short vectors: exponentials, softplus, sigmoid, GELU, leaky ReLU.

Each is written out in additions and multiplications, so that it costs the same for every lane and NaN propagates.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

import math

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kinn.ops.cpu._vector import Vector, constant, multiply_add

# 2^f - 1 = f (ln 2 + f q(f)) for |f| <= 1/2: minimax polynomials q, relative error 1.2e-7 (that is 2e-8 in 2^f - 1)
# and 5e-17, lowest power first.
_Q = {
    32: (2.40226505e-1, 5.55038111e-2, 9.61817221e-3, 1.33812502e-3, 1.54172739e-4),
    64: (
        0.24022650695910075, 0.05550410866482158, 0.009618129107618665, 0.0013333558146423213, 1.5403530424776529e-4,
        1.5252733820795803e-5, 1.3215451633221434e-6, 1.0178067267449427e-7, 7.070977866508138e-9, 4.45410341058704e-10,
    ),
}  # fmt: skip
_MANTISSA = {32: 23, 64: 52}
_BIAS = {32: 127, 64: 1023}


def _reduced(builder, vector: Vector, exponent):
    """`(k, f, s, f^2 q(f), f ln 2)` with `exponent = k + f`, `|f| <= 1/2`, `s = 2^k`; NaN stays in `f`."""
    bits = vector.dtype.bitwidth
    least = constant(vector, 1.0 - _BIAS[bits])
    exponent = builder.select(builder.fcmp_ordered("<", exponent, least), least, exponent)
    # Adding 1.5 * 2^mantissa rounds to an integer and leaves it, here with the exponent's bias, in the lowest bits.
    magic = constant(vector, 1.5 * 2.0 ** _MANTISSA[bits] + _BIAS[bits])
    shifted = builder.fadd(exponent, magic)
    integers = ir.VectorType(ir.IntType(bits), vector.lanes)
    shift = ir.Constant(integers, [ir.Constant(ir.IntType(bits), _MANTISSA[bits])] * vector.lanes)
    s = builder.bitcast(builder.shl(builder.bitcast(shifted, integers), shift), exponent.type)
    k = builder.fsub(shifted, magic)
    f = builder.fsub(exponent, k)
    *coefficients, q = (constant(vector, c) for c in _Q[bits])
    for c in reversed(coefficients):
        q = multiply_add(builder, q, f, c)
    return k, f, s, q


def _vanishing(builder, vector: Vector, exponent, s):
    """`s = 2^k` of :func:`_reduced`, but 0 where the exponent lies below all normal numbers."""
    least = constant(vector, 1.0 - _BIAS[vector.dtype.bitwidth])
    return builder.select(builder.fcmp_ordered("<", exponent, least), constant(vector, 0.0), s)


@intrinsic
def expm1_of_log2(typingctx, exponent):
    """`2^exponent - 1` for `exponent <= 0`, to full relative precision also near 0."""

    def codegen(context, builder, signature, args):
        _, f, s, q = _reduced(builder, exponent, args[0])
        g = builder.fmul(f, multiply_add(builder, q, f, constant(exponent, math.log(2.0))))
        return multiply_add(builder, s, g, builder.fsub(s, constant(exponent, 1.0)))

    return exponent(exponent), codegen


@intrinsic
def expm1_and_slope(typingctx, exponent):
    """`(E, E + z exp(-z))` with `E = expm1(-z)` and `z = -exponent ln 2`, both to full relative precision near 0.

    The second is what the derivative of the injection `-E / a` with respect to `a` needs.
    """

    def codegen(context, builder, signature, args):
        ln2, one = constant(exponent, math.log(2.0)), constant(exponent, 1.0)
        k, f, s, q = _reduced(builder, exponent, args[0])
        r = builder.fmul(f, ln2)
        p = builder.fmul(f, builder.fmul(f, q))  # exp(r) - 1 - r
        g = builder.fadd(p, r)
        less = builder.fsub(s, one)
        e = multiply_add(builder, s, g, less)
        # exp(-z) = s (1 + g) and z = -r - k ln 2, multiplied out so that for k = 0 the leading terms are gone.
        near = multiply_add(builder, builder.fneg(r), g, p)
        far = builder.fmul(k, constant(exponent, -math.log(2.0)))
        slope = multiply_add(builder, s, multiply_add(builder, far, builder.fadd(one, g), near), less)
        return context.make_tuple(builder, signature.return_type, (e, slope))

    return types.UniTuple(exponent, 2)(exponent), codegen


# log(1 + e) = e p(e) for 0 <= e <= 1: minimax polynomials p, relative error 3e-8 and 6e-17, lowest power first.
_P = {
    32: (
        0.99999997, -0.49999493, 0.33319095, -0.248429698, 0.191059654, -0.136631704, 0.0782251873, -0.0295048341,
        0.00523260733,
    ),
    64: (
        0.9999999999999999, -0.49999999999995465, 0.3333333333271753, -0.24999999966711517, 0.1999999904442774,
        -0.16666649825175844, 0.14285515510274513, -0.12498336481115778, 0.11100837635684732, -0.09951796365702181,
        0.08915242072177965, -0.07827351063011319, 0.06523114946322663, -0.04944072792004235, 0.032459970674923455,
        -0.017525233723992038, 0.0073402834009357164, -0.002210300216328859, 0.00042236778730288845,
        -3.8267841783835614e-05,
    ),
}  # fmt: skip


@intrinsic
def softplus(typingctx, x):
    """`log(1 + exp(x))`, to full relative precision also where it is tiny."""

    def codegen(context, builder, signature, args):
        zero = constant(x, 0.0)
        positive = builder.fcmp_ordered(">", args[0], zero)
        below = builder.select(positive, builder.fneg(args[0]), args[0])  # -|x|
        exponent = builder.fmul(below, constant(x, 1 / math.log(2.0)))
        _, f, s, q = _reduced(builder, x, exponent)
        s = _vanishing(builder, x, exponent, s)
        g = builder.fmul(f, multiply_add(builder, q, f, constant(x, math.log(2.0))))
        e = multiply_add(builder, s, g, s)
        *coefficients, p = (constant(x, c) for c in _P[x.dtype.bitwidth])
        for c in reversed(coefficients):
            p = multiply_add(builder, p, e, c)
        return multiply_add(builder, e, p, builder.select(positive, args[0], zero))

    return x(x), codegen


@intrinsic
def sigmoid(typingctx, x):
    """`1 / (1 + exp(-x))`, to full relative precision also where it is tiny."""

    def codegen(context, builder, signature, args):
        zero, one = constant(x, 0.0), constant(x, 1.0)
        positive = builder.fcmp_ordered(">", args[0], zero)
        below = builder.select(positive, builder.fneg(args[0]), args[0])  # -|x|
        exponent = builder.fmul(below, constant(x, 1 / math.log(2.0)))
        _, f, s, q = _reduced(builder, x, exponent)
        s = _vanishing(builder, x, exponent, s)
        g = builder.fmul(f, multiply_add(builder, q, f, constant(x, math.log(2.0))))
        e = multiply_add(builder, s, g, s)
        return builder.fdiv(builder.select(positive, one, e), builder.fadd(one, e))

    return x(x), codegen


# Phi(-x) = exp(-x^2 / 2) t r(t), t = 1 / (1 + 0.275 x), for x >= 0: minimax polynomial r, relative error 4e-8.
_TAIL_SCALE = 0.275
_R = (
    0.109701108, 0.109816251, 0.101052006, 0.0832970126, 0.0780225744, -0.0211229386, 0.118291992, -0.105127763,
    0.0260697767,
)  # fmt: skip


@intrinsic
def gelu_and_slope(typingctx, x):
    """`x Phi(x)` and its derivative `Phi(x) + x phi(x)`, in single precision."""

    def codegen(context, builder, signature, args):
        zero, one = constant(x, 0.0), constant(x, 1.0)
        negative = builder.fcmp_ordered("<", args[0], zero)
        size = builder.select(negative, builder.fneg(args[0]), args[0])
        half_square = builder.fmul(builder.fmul(args[0], args[0]), constant(x, -0.5 / math.log(2.0)))
        _, f, s, q = _reduced(builder, x, half_square)
        s = _vanishing(builder, x, half_square, s)
        g = builder.fmul(f, multiply_add(builder, q, f, constant(x, math.log(2.0))))
        density = multiply_add(builder, s, g, s)
        t = builder.fdiv(one, multiply_add(builder, size, constant(x, _TAIL_SCALE), one))
        r = constant(x, _R[-1])
        for c in reversed(_R[:-1]):
            r = multiply_add(builder, r, t, constant(x, c))
        tail = builder.fmul(density, builder.fmul(t, r))
        below = builder.select(negative, tail, builder.fsub(one, tail))
        slope = multiply_add(builder, builder.fmul(args[0], density), constant(x, 1 / math.sqrt(2 * math.pi)), below)
        return context.make_tuple(builder, signature.return_type, (builder.fmul(args[0], below), slope))

    return types.UniTuple(x, 2)(x), codegen


@intrinsic
def leaky_and_slope(typingctx, x, below):
    """`x` where it is positive, `below x` elsewhere, and its derivative."""

    def codegen(context, builder, signature, args):
        positive = builder.fcmp_ordered(">", args[0], constant(x, 0.0))
        slope = builder.select(positive, constant(x, 1.0), args[1])
        return context.make_tuple(builder, signature.return_type, (builder.fmul(args[0], slope), slope))

    return types.UniTuple(x, 2)(x, x), codegen


@intrinsic
def rsqrt(typingctx, x):
    """`1 / sqrt(x)`."""

    def codegen(context, builder, signature, args):
        name = f"llvm.sqrt.v{x.lanes}f{x.dtype.bitwidth}"
        kind = args[0].type
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name)
        return builder.fdiv(constant(x, 1.0), builder.call(function, [args[0]]))

    return x(x), codegen
