"""Vectors whose last lanes lie beyond their array: read as zeros, and not written.

A width that is no multiple of a vector's is the rule at the end of a row; memory behind the row is never touched.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kinn.ops.cpu._vector import Vector, address_of, alignment, in_every_lane, ir_type, part_of, shuffle


def _masked(builder, kind, count):
    """The mask of the first `count` lanes."""
    integers = ir.VectorType(ir.IntType(32), kind.count)
    wide = in_every_lane(builder, integers, builder.trunc(count, ir.IntType(32)))
    lanes = ir.Constant(integers, [ir.Constant(ir.IntType(32), lane) for lane in range(kind.count)])
    return builder.icmp_signed("<", lanes, wide)


def _masked_load(context, builder, source_type, source, index, count, vector: Vector):
    """The first `count` channels from `source[index:]`, zero in the others."""
    kind = ir.VectorType(ir_type(vector).element, vector.channels)
    mask = _masked(builder, kind, count)
    address = address_of(context, builder, source_type, source, index, kind)
    name = f"llvm.masked.load.v{kind.count}f{vector.dtype.bitwidth}.p0"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [address.type, ir.IntType(32), mask.type, kind]), name
    )
    align = ir.Constant(ir.IntType(32), alignment(source_type))
    return builder.call(
        function, [address, align, mask, ir.Constant(kind, [ir.Constant(kind.element, 0.0)] * kind.count)]
    )


def _masked_store(context, builder, target_type, target, index, count, value):
    """Write the first `count` lanes of an LLVM vector to `target[index:]`."""
    kind = value.type
    mask = _masked(builder, kind, count)
    address = address_of(context, builder, target_type, target, index, kind)
    name = f"llvm.masked.store.v{kind.count}f{target_type.dtype.bitwidth}.p0"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [kind, address.type, ir.IntType(32), mask.type]), name
    )
    builder.call(function, [value, address, ir.Constant(ir.IntType(32), alignment(target_type)), mask])


@intrinsic
def load_first(typingctx, source, index, count, like):
    """The first `count` channels from `source[index:]`, zero in the others, for every potential alike.

    Memory behind them is not touched.
    """

    def codegen(context, builder, signature, args):
        value = _masked_load(context, builder, source, *args[:3], like)
        return value if like.parts == 1 else shuffle(builder, value, value, list(range(like.channels)) * like.parts)

    return like(source, types.int64, types.int64, like), codegen


@intrinsic
def load_rows(typingctx, source, index, stride, count, like):
    """As :func:`load_first`, with the potentials in rows of their own, `stride` apart."""

    def codegen(context, builder, signature, args):
        values = []
        for number in range(like.parts):
            at = builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, number)))
            values.append(_masked_load(context, builder, source, args[0], at, args[3], like))
        return values[0] if like.parts == 1 else shuffle(builder, *values, range(like.lanes))

    return like(source, types.int64, types.int64, types.int64, like), codegen


@intrinsic
def store_first(typingctx, target, index, count, value):
    """Write the first `count` channels of `value`, of its first potential, to `target[index:]`."""

    def codegen(context, builder, signature, args):
        _masked_store(context, builder, target, *args[:3], part_of(builder, value, args[3], 0))
        return context.get_dummy_value()

    return types.void(target, types.int64, types.int64, value), codegen


@intrinsic
def store_rows(typingctx, target, index, stride, count, value):
    """The reverse of :func:`load_rows`."""

    def codegen(context, builder, signature, args):
        for number in range(value.parts):
            at = builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, number)))
            _masked_store(context, builder, target, args[0], at, args[3], part_of(builder, value, args[4], number))
        return context.get_dummy_value()

    return types.void(target, types.int64, types.int64, types.int64, value), codegen
