"""Short vectors of floats as a numba type, so that kernels say which loop is vectorised instead of hoping for it.

A value of type `Vector` holds a fixed number of floats of one type in registers; LLVM maps it to whatever the machine
has. Arithmetic is IEEE except that a product and a sum may fuse: NaN and infinities propagate.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

import math
import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, register_model

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


class Vector(types.Type):
    """`lanes` values of one numba float type: `parts` potentials, one after the other, of `lanes / parts` channels."""

    def __init__(self, dtype: types.Float, lanes: int, parts: int = 1) -> None:
        self.dtype = dtype
        self.lanes = lanes
        self.parts = parts
        self.channels = lanes // parts
        super().__init__(name=f"Vector({dtype}, {lanes}, {parts})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _ir_type(fe_type))


def _ir_type(vector: Vector) -> ir.VectorType:
    element = ir.FloatType() if vector.dtype.bitwidth == 32 else ir.DoubleType()
    return ir.VectorType(element, vector.lanes)


def _constant(vector: Vector, value: float) -> ir.Constant:
    kind = _ir_type(vector)
    return ir.Constant(kind, [ir.Constant(kind.element, value)] * vector.lanes)


def _shuffle(builder, left, right, lanes):
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), [ir.Constant(ir.IntType(32), lane) for lane in lanes])
    return builder.shuffle_vector(left, right, mask)


def _splat(builder, kind: ir.VectorType, scalar):
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return _shuffle(builder, first, undefined, [0] * kind.count)


def _fma(builder, a, b, c):
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


def _address(context, builder, pointer_type, pointer, index, kind):
    """Pointer to element `index` of an array or a plain pointer, as a pointer to `kind`."""
    if isinstance(pointer_type, types.Array):
        pointer = context.make_array(pointer_type)(context, builder, pointer).data
    return builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())


def _align(pointer_type) -> int:
    return pointer_type.dtype.bitwidth // 8


@intrinsic
def pointer(typingctx, address, like):
    """The memory at an integer address, with the element type of the array `like`."""
    result = types.CPointer(like.dtype)

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(result))

    return result(types.int64, like), codegen


@intrinsic(prefer_literal=True)
def zeros(typingctx, like, lanes):
    """`lanes` zeros (an integer constant) of the element type of `like`; other functions take their type from it."""
    vector = Vector(like.dtype, lanes.literal_value)

    def codegen(context, builder, signature, args):
        return _constant(vector, 0.0)

    return vector(like, lanes), codegen


@intrinsic(prefer_literal=True)
def pairs(typingctx, like, lanes):
    """As :func:`zeros`, for two potentials of half as many channels."""
    vector = Vector(like.dtype, lanes.literal_value, 2)

    def codegen(context, builder, signature, args):
        return _constant(vector, 0.0)

    return vector(like, lanes), codegen


@intrinsic
def size(typingctx, vector):
    """How many channels a vector has."""

    def codegen(context, builder, signature, args):
        return ir.Constant(ir.IntType(64), vector.channels)

    return types.int64(vector), codegen


@intrinsic
def parts(typingctx, vector):
    """How many potentials of a channel a vector has."""

    def codegen(context, builder, signature, args):
        return ir.Constant(ir.IntType(64), vector.parts)

    return types.int64(vector), codegen


@intrinsic
def load(typingctx, source, index, like):
    """A vector as long as `like` from `source[index:]`."""

    def codegen(context, builder, signature, args):
        return builder.load(_address(context, builder, source, *args[:2], args[2].type), align=_align(source))

    return like(source, types.int64, like), codegen


@intrinsic
def store(typingctx, target, index, value):
    """Write `value` to `target[index:]`."""

    def codegen(context, builder, signature, args):
        builder.store(args[2], _address(context, builder, target, *args[:2], args[2].type), align=_align(target))
        return context.get_dummy_value()

    return types.void(target, types.int64, value), codegen


def _masked(builder, kind, count):
    """The mask of the first `count` lanes."""
    integers = ir.VectorType(ir.IntType(32), kind.count)
    wide = _splat(builder, integers, builder.trunc(count, ir.IntType(32)))
    lanes = ir.Constant(integers, [ir.Constant(ir.IntType(32), lane) for lane in range(kind.count)])
    return builder.icmp_signed("<", lanes, wide)


def _masked_load(context, builder, source_type, source, index, count, vector: Vector):
    """The first `count` channels from `source[index:]`, zero in the others."""
    kind = ir.VectorType(_ir_type(vector).element, vector.channels)
    mask = _masked(builder, kind, count)
    address = _address(context, builder, source_type, source, index, kind)
    name = f"llvm.masked.load.v{kind.count}f{vector.dtype.bitwidth}.p0"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [address.type, ir.IntType(32), mask.type, kind]), name
    )
    align = ir.Constant(ir.IntType(32), _align(source_type))
    return builder.call(
        function, [address, align, mask, ir.Constant(kind, [ir.Constant(kind.element, 0.0)] * kind.count)]
    )


def _masked_store(context, builder, target_type, target, index, count, value):
    """Write the first `count` lanes of an LLVM vector to `target[index:]`."""
    kind = value.type
    mask = _masked(builder, kind, count)
    address = _address(context, builder, target_type, target, index, kind)
    name = f"llvm.masked.store.v{kind.count}f{target_type.dtype.bitwidth}.p0"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [kind, address.type, ir.IntType(32), mask.type]), name
    )
    builder.call(function, [value, address, ir.Constant(ir.IntType(32), _align(target_type)), mask])


def _part(builder, vector: Vector, value, number):
    """One potential's lanes."""
    if vector.parts == 1:
        return value
    return _shuffle(builder, value, value, range(number * vector.channels, (number + 1) * vector.channels))


@intrinsic
def load_first(typingctx, source, index, count, like):
    """The first `count` channels from `source[index:]`, zero in the others, for every potential alike.

    Memory behind them is not touched.
    """

    def codegen(context, builder, signature, args):
        value = _masked_load(context, builder, source, *args[:3], like)
        return value if like.parts == 1 else _shuffle(builder, value, value, list(range(like.channels)) * like.parts)

    return like(source, types.int64, types.int64, like), codegen


@intrinsic
def load_rows(typingctx, source, index, stride, count, like):
    """As :func:`load_first`, with the potentials in rows of their own, `stride` apart."""

    def codegen(context, builder, signature, args):
        values = []
        for number in range(like.parts):
            at = builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, number)))
            values.append(_masked_load(context, builder, source, args[0], at, args[3], like))
        return values[0] if like.parts == 1 else _shuffle(builder, *values, range(like.lanes))

    return like(source, types.int64, types.int64, types.int64, like), codegen


@intrinsic
def store_first(typingctx, target, index, count, value):
    """Write the first `count` channels of `value`, of its first potential, to `target[index:]`."""

    def codegen(context, builder, signature, args):
        _masked_store(context, builder, target, *args[:3], _part(builder, value, args[3], 0))
        return context.get_dummy_value()

    return types.void(target, types.int64, types.int64, value), codegen


@intrinsic
def store_rows(typingctx, target, index, stride, count, value):
    """The reverse of :func:`load_rows`."""

    def codegen(context, builder, signature, args):
        for number in range(value.parts):
            at = builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, number)))
            _masked_store(context, builder, target, args[0], at, args[3], _part(builder, value, args[4], number))
        return context.get_dummy_value()

    return types.void(target, types.int64, types.int64, types.int64, value), codegen


@intrinsic
def prefetch(typingctx, source, index):
    """Begin to bring the cache line of `source[index]` near."""

    def codegen(context, builder, signature, args):
        address, integer = builder.gep(args[0], [args[1]]), ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [address.type, *[integer] * 3]), "llvm.prefetch.p0"
        )
        builder.call(function, [address, integer(0), integer(3), integer(1)])
        return context.get_dummy_value()

    return types.void(source, types.int64), codegen


@intrinsic
def splat(typingctx, like, value):
    """`value` in every lane of a vector as long as `like`."""

    def codegen(context, builder, signature, args):
        return _splat(builder, args[0].type, args[1])

    return like(like, like.dtype), codegen


@intrinsic
def splat_each(typingctx, like, source, index):
    """`source[index]` in every lane, or `source[index:]` in the potentials' lanes, one element each."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        first = ir.VectorType(kind.element, like.parts)
        elements = builder.load(_address(context, builder, source, *args[1:], first), align=_align(source))
        return _shuffle(builder, elements, elements, [lane // like.channels for lane in range(like.lanes)])

    return like(like, source, types.int64), codegen


@intrinsic
def fold(typingctx, value):
    """The sum over the potentials of a vector, in each of them."""

    def codegen(context, builder, signature, args):
        if value.parts == 1:
            return args[0]
        turned = _shuffle(builder, args[0], args[0], [(i + value.channels) % value.lanes for i in range(value.lanes)])
        return builder.fadd(args[0], turned)

    return value(value), codegen


@intrinsic(prefer_literal=True)
def add_folded(typingctx, target, index, value, lanes):
    """Add `value` to `target[index:]`, folded to at most `lanes` (an integer constant) by summing over channels.

    Each of its potentials is added by itself, `lanes` further on.
    """

    def codegen(context, builder, signature, args):
        for number in range(value.parts):
            folded = _part(builder, value, args[2], number)
            while folded.type.count > lanes.literal_value:
                half = folded.type.count // 2
                low, high = (_shuffle(builder, folded, folded, range(i, i + half)) for i in (0, half))
                folded = builder.fadd(low, high)
            at = builder.add(args[1], ir.Constant(args[1].type, number * lanes.literal_value))
            address = _address(context, builder, target, args[0], at, folded.type)
            total = builder.fadd(builder.load(address, align=_align(target)), folded)
            builder.store(total, address, align=_align(target))
        return context.get_dummy_value()

    return types.void(target, types.int64, value, lanes), codegen


@intrinsic
def any_below(typingctx, value, bound, count):
    """Whether one of the first `count` channels is below a number; NaN is not."""

    def codegen(context, builder, signature, args):
        below = builder.fcmp_ordered("<", args[0], _splat(builder, args[0].type, args[1]))
        integers = ir.VectorType(ir.IntType(32), value.lanes)
        channel = ir.Constant(integers, [ir.Constant(ir.IntType(32), i % value.channels) for i in range(value.lanes)])
        wide = _splat(builder, integers, builder.trunc(args[2], ir.IntType(32)))
        found = builder.and_(below, builder.icmp_signed("<", channel, wide))
        return builder.icmp_signed("!=", builder.bitcast(found, ir.IntType(value.lanes)), ir.IntType(value.lanes)(0))

    return types.boolean(value, value.dtype, types.int64), codegen


@intrinsic
def smaller(typingctx, value, bound):
    """`min(value, bound)` by lane; a NaN in `value` is passed over."""

    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("<", *args), *args)

    return value(value, value), codegen


@intrinsic
def sum_each(typingctx, source, index, like):
    """The sums over lanes of as many vectors as `like` has lanes, stored one after the other at `source[index:]`."""

    def codegen(context, builder, signature, args):
        start, lanes = args[1], like.lanes
        step = [ir.Constant(start.type, lanes * i) for i in range(lanes)]
        address = [_address(context, builder, source, args[0], builder.add(start, s), args[2].type) for s in step]
        rows = [builder.load(a, align=_align(source)) for a in address]
        block = lanes // 2
        while block:
            half = len(rows) // 2
            rows = [_merge(builder, rows[i], rows[i + half], block) for i in range(half)]
            block //= 2
        return rows[0]

    return like(source, types.int64, like), codegen


def _merge(builder, left, right, block):
    """Fold each pair of neighbouring blocks of lanes: `left`'s sums in the even blocks, `right`'s in the odd ones."""
    lanes = left.type.count
    even = [(lane // block) % 2 == 0 for lane in range(lanes)]
    first = _shuffle(builder, left, right, [i if even[i] else lanes + i - block for i in range(lanes)])
    second = _shuffle(builder, left, right, [i + block if even[i] else lanes + i for i in range(lanes)])
    return builder.fadd(first, second)


def _binary(function, instruction):
    @intrinsic
    def vectors(typingctx, left, right):
        def codegen(context, builder, signature, args):
            return getattr(builder, instruction)(*args, flags=("contract",))

        return left(left, right), codegen

    @overload(function)
    def resolve(left, right):
        if isinstance(left, Vector) and isinstance(right, Vector):
            return lambda left, right: vectors(left, right)
        return None


for _function, _instruction in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")
):  # fmt: skip
    _binary(_function, _instruction)


def _reduced(builder, vector: Vector, exponent):
    """`(k, f, s, f^2 q(f), f ln 2)` with `exponent = k + f`, `|f| <= 1/2`, `s = 2^k`; NaN stays in `f`."""
    bits = vector.dtype.bitwidth
    least = _constant(vector, 1.0 - _BIAS[bits])
    exponent = builder.select(builder.fcmp_ordered("<", exponent, least), least, exponent)
    # Adding 1.5 * 2^mantissa rounds to an integer and leaves it, here with the exponent's bias, in the lowest bits.
    magic = _constant(vector, 1.5 * 2.0 ** _MANTISSA[bits] + _BIAS[bits])
    shifted = builder.fadd(exponent, magic)
    integers = ir.VectorType(ir.IntType(bits), vector.lanes)
    shift = ir.Constant(integers, [ir.Constant(ir.IntType(bits), _MANTISSA[bits])] * vector.lanes)
    s = builder.bitcast(builder.shl(builder.bitcast(shifted, integers), shift), exponent.type)
    k = builder.fsub(shifted, magic)
    f = builder.fsub(exponent, k)
    *coefficients, q = (_constant(vector, c) for c in _Q[bits])
    for c in reversed(coefficients):
        q = _fma(builder, q, f, c)
    return k, f, s, q


@intrinsic
def expm1_of_log2(typingctx, exponent):
    """`2^exponent - 1` for `exponent <= 0`, to full relative precision also near 0."""

    def codegen(context, builder, signature, args):
        _, f, s, q = _reduced(builder, exponent, args[0])
        g = builder.fmul(f, _fma(builder, q, f, _constant(exponent, math.log(2.0))))
        return _fma(builder, s, g, builder.fsub(s, _constant(exponent, 1.0)))

    return exponent(exponent), codegen


@intrinsic
def expm1_and_slope(typingctx, exponent):
    """`(E, E + z exp(-z))` with `E = expm1(-z)` and `z = -exponent ln 2`, both to full relative precision near 0.

    The second is what the derivative of the injection `-E / a` with respect to `a` needs.
    """

    def codegen(context, builder, signature, args):
        ln2, one = _constant(exponent, math.log(2.0)), _constant(exponent, 1.0)
        k, f, s, q = _reduced(builder, exponent, args[0])
        r = builder.fmul(f, ln2)
        p = builder.fmul(f, builder.fmul(f, q))  # exp(r) - 1 - r
        g = builder.fadd(p, r)
        less = builder.fsub(s, one)
        e = _fma(builder, s, g, less)
        # exp(-z) = s (1 + g) and z = -r - k ln 2, multiplied out so that for k = 0 the leading terms are gone.
        near = _fma(builder, builder.fneg(r), g, p)
        far = builder.fmul(k, _constant(exponent, -math.log(2.0)))
        slope = _fma(builder, s, _fma(builder, far, builder.fadd(one, g), near), less)
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
        zero = _constant(x, 0.0)
        positive = builder.fcmp_ordered(">", args[0], zero)
        below = builder.select(positive, builder.fneg(args[0]), args[0])  # -|x|
        _, f, s, q = _reduced(builder, x, builder.fmul(below, _constant(x, 1 / math.log(2.0))))
        g = builder.fmul(f, _fma(builder, q, f, _constant(x, math.log(2.0))))
        e = _fma(builder, s, g, s)
        *coefficients, p = (_constant(x, c) for c in _P[x.dtype.bitwidth])
        for c in reversed(coefficients):
            p = _fma(builder, p, e, c)
        return _fma(builder, e, p, builder.select(positive, args[0], zero))

    return x(x), codegen


@intrinsic
def sigmoid(typingctx, x):
    """`1 / (1 + exp(-x))`, to full relative precision also where it is tiny."""

    def codegen(context, builder, signature, args):
        zero, one = _constant(x, 0.0), _constant(x, 1.0)
        positive = builder.fcmp_ordered(">", args[0], zero)
        below = builder.select(positive, builder.fneg(args[0]), args[0])  # -|x|
        _, f, s, q = _reduced(builder, x, builder.fmul(below, _constant(x, 1 / math.log(2.0))))
        g = builder.fmul(f, _fma(builder, q, f, _constant(x, math.log(2.0))))
        e = _fma(builder, s, g, s)
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
        zero, one = _constant(x, 0.0), _constant(x, 1.0)
        negative = builder.fcmp_ordered("<", args[0], zero)
        size = builder.select(negative, builder.fneg(args[0]), args[0])
        half_square = builder.fmul(builder.fmul(args[0], args[0]), _constant(x, -0.5 / math.log(2.0)))
        _, f, s, q = _reduced(builder, x, half_square)
        g = builder.fmul(f, _fma(builder, q, f, _constant(x, math.log(2.0))))
        density = _fma(builder, s, g, s)
        t = builder.fdiv(one, _fma(builder, size, _constant(x, _TAIL_SCALE), one))
        r = _constant(x, _R[-1])
        for c in reversed(_R[:-1]):
            r = _fma(builder, r, t, _constant(x, c))
        tail = builder.fmul(density, builder.fmul(t, r))
        below = builder.select(negative, tail, builder.fsub(one, tail))
        slope = _fma(builder, builder.fmul(args[0], density), _constant(x, 1 / math.sqrt(2 * math.pi)), below)
        return context.make_tuple(builder, signature.return_type, (builder.fmul(args[0], below), slope))

    return types.UniTuple(x, 2)(x), codegen


@intrinsic
def rsqrt(typingctx, x):
    """`1 / sqrt(x)`."""

    def codegen(context, builder, signature, args):
        name = f"llvm.sqrt.v{x.lanes}f{x.dtype.bitwidth}"
        kind = args[0].type
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name)
        return builder.fdiv(_constant(x, 1.0), builder.call(function, [args[0]]))

    return x(x), codegen
