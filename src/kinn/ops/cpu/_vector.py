"""Short vectors of floats as a numba type, so that kernels say which loop is vectorised instead of hoping for it.

A value of type `Vector` holds a fixed number of floats of one type in registers; LLVM maps it to whatever the machine
has. Arithmetic is IEEE except that a product and a sum may fuse: NaN and infinities propagate.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, register_model

_LINE = 64  # bytes of a cache line


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
        super().__init__(dmm, fe_type, ir_type(fe_type))


def ir_type(vector: Vector) -> ir.VectorType:
    element = ir.FloatType() if vector.dtype.bitwidth == 32 else ir.DoubleType()
    return ir.VectorType(element, vector.lanes)


def constant(vector: Vector, value: float) -> ir.Constant:
    """`value` in every lane."""
    kind = ir_type(vector)
    return ir.Constant(kind, [ir.Constant(kind.element, value)] * vector.lanes)


def shuffle(builder, left, right, lanes):
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), [ir.Constant(ir.IntType(32), lane) for lane in lanes])
    return builder.shuffle_vector(left, right, mask)


def in_every_lane(builder, kind: ir.VectorType, scalar):
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return shuffle(builder, first, undefined, [0] * kind.count)


def multiply_add(builder, a, b, c):
    """`a b + c`, rounded once where the machine can."""
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


def address_of(context, builder, pointer_type, pointer, index, kind):
    """Pointer to element `index` of an array or a plain pointer, as a pointer to `kind`."""
    if isinstance(pointer_type, types.Array):
        pointer = context.make_array(pointer_type)(context, builder, pointer).data
    return builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())


def alignment(pointer_type) -> int:
    return pointer_type.dtype.bitwidth // 8


@intrinsic
def pointer(typingctx, address, like):
    """The memory at an integer address, with the element type of the array `like`."""
    result = types.CPointer(like.dtype)

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(result))

    return result(types.int64, like), codegen


@intrinsic
def element(typingctx, source, index):
    """`source[index]` of a plain pointer, from no end but its beginning."""

    def codegen(context, builder, signature, args):
        return builder.load(builder.gep(args[0], [args[1]]))

    return source.dtype(source, types.int64), codegen


@intrinsic(prefer_literal=True)
def zeros(typingctx, like, lanes):
    """`lanes` zeros (an integer constant) of the element type of `like`; other functions take their type from it."""
    vector = Vector(like.dtype, lanes.literal_value)

    def codegen(context, builder, signature, args):
        return constant(vector, 0.0)

    return vector(like, lanes), codegen


@intrinsic(prefer_literal=True)
def pairs(typingctx, like, lanes):
    """As :func:`zeros`, for two potentials of half as many channels."""
    vector = Vector(like.dtype, lanes.literal_value, 2)

    def codegen(context, builder, signature, args):
        return constant(vector, 0.0)

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
        return builder.load(address_of(context, builder, source, *args[:2], args[2].type), align=alignment(source))

    return like(source, types.int64, like), codegen


@intrinsic
def store(typingctx, target, index, value):
    """Write `value` to `target[index:]`."""

    def codegen(context, builder, signature, args):
        builder.store(args[2], address_of(context, builder, target, *args[:2], args[2].type), align=alignment(target))
        return context.get_dummy_value()

    return types.void(target, types.int64, value), codegen


def part_of(builder, vector: Vector, value, number):
    """One potential's lanes."""
    if vector.parts == 1:
        return value
    return shuffle(builder, value, value, range(number * vector.channels, (number + 1) * vector.channels))


@intrinsic
def prefetch(typingctx, source, index, like):
    """Begin to bring `source[index:]` near, all channels of a vector like `like`."""

    def codegen(context, builder, signature, args):
        kind, integer = args[0].type, ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [kind, *[integer] * 3]), "llvm.prefetch.p0"
        )
        for ahead in range(0, like.channels, _LINE * 8 // like.dtype.bitwidth):
            address = builder.gep(args[0], [builder.add(args[1], args[1].type(ahead))])
            builder.call(function, [address, integer(0), integer(3), integer(1)])
        return context.get_dummy_value()

    return types.void(source, types.int64, like), codegen


@intrinsic
def splat(typingctx, like, value):
    """`value` in every lane of a vector as long as `like`."""

    def codegen(context, builder, signature, args):
        return in_every_lane(builder, args[0].type, args[1])

    return like(like, like.dtype), codegen


@intrinsic
def splat_each(typingctx, like, source, index):
    """`source[index]` in every lane, or `source[index:]` in the potentials' lanes, one element each."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        first = ir.VectorType(kind.element, like.parts)
        elements = builder.load(address_of(context, builder, source, *args[1:], first), align=alignment(source))
        return shuffle(builder, elements, elements, [lane // like.channels for lane in range(like.lanes)])

    return like(like, source, types.int64), codegen


@intrinsic
def fold(typingctx, value):
    """The sum over the potentials of a vector, in each of them."""

    def codegen(context, builder, signature, args):
        if value.parts == 1:
            return args[0]
        turned = shuffle(builder, args[0], args[0], [(i + value.channels) % value.lanes for i in range(value.lanes)])
        return builder.fadd(args[0], turned)

    return value(value), codegen


@intrinsic(prefer_literal=True)
def add_folded(typingctx, target, index, value, lanes):
    """Add `value` to `target[index:]`, folded to at most `lanes` (an integer constant) by summing over channels.

    Each of its potentials is added by itself, `lanes` further on.
    """

    def codegen(context, builder, signature, args):
        for number in range(value.parts):
            folded = part_of(builder, value, args[2], number)
            while folded.type.count > lanes.literal_value:
                half = folded.type.count // 2
                low, high = (shuffle(builder, folded, folded, range(i, i + half)) for i in (0, half))
                folded = builder.fadd(low, high)
            at = builder.add(args[1], ir.Constant(args[1].type, number * lanes.literal_value))
            address = address_of(context, builder, target, args[0], at, folded.type)
            total = builder.fadd(builder.load(address, align=alignment(target)), folded)
            builder.store(total, address, align=alignment(target))
        return context.get_dummy_value()

    return types.void(target, types.int64, value, lanes), codegen


@intrinsic
def any_below(typingctx, value, bound, count):
    """Whether one of the first `count` channels is below a number; NaN is not."""

    def codegen(context, builder, signature, args):
        below = builder.fcmp_ordered("<", args[0], in_every_lane(builder, args[0].type, args[1]))
        integers = ir.VectorType(ir.IntType(32), value.lanes)
        channel = ir.Constant(integers, [ir.Constant(ir.IntType(32), i % value.channels) for i in range(value.lanes)])
        wide = in_every_lane(builder, integers, builder.trunc(args[2], ir.IntType(32)))
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
def where_within(typingctx, value, drive, most):
    """`value` in the lanes where the size of `drive` is below `most`, or NaN; 0 elsewhere."""

    def codegen(context, builder, signature, args):
        least = builder.fneg(args[2])
        out = builder.or_(builder.fcmp_ordered(">=", args[1], args[2]), builder.fcmp_ordered("<=", args[1], least))
        return builder.select(out, constant(value, 0.0), args[0])

    return value(value, value, value), codegen


@intrinsic
def sum_each(typingctx, source, index, like):
    """The sums over lanes of as many vectors as `like` has lanes, stored one after the other at `source[index:]`."""

    def codegen(context, builder, signature, args):
        start, lanes = args[1], like.lanes
        step = [ir.Constant(start.type, lanes * i) for i in range(lanes)]
        address = [address_of(context, builder, source, args[0], builder.add(start, s), args[2].type) for s in step]
        rows = [builder.load(a, align=alignment(source)) for a in address]
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
    first = shuffle(builder, left, right, [i if even[i] else lanes + i - block for i in range(lanes)])
    second = shuffle(builder, left, right, [i + block if even[i] else lanes + i for i in range(lanes)])
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
