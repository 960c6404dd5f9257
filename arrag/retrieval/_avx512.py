"""Instructions that numba does not generate, written in LLVM's language.

``prefetch`` is for any processor; the others need AVX-512 VBMI2 and triple the speed of the exact
scan. ``exact_scan`` has a plain loop beside each call, for other machines; a test compares the two.
Numba's cache of a caller does not notice a change here: change the caller too.
"""

from __future__ import annotations

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_NEEDED = ("avx512bw", "avx512vbmi", "avx512vbmi2")
WIDE = all(binding.get_host_cpu_features().get(feature) for feature in _NEEDED)
"""Whether this machine has the instructions."""

_WORD = ir.IntType(64)
_BYTES = ir.VectorType(ir.IntType(8), 64)
_HALF = ir.VectorType(ir.IntType(16), 32)


@intrinsic
def prefetch(typing_context, array, index):
    """Ask for the cache line of an element that will be read soon; index: int64."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        number, nothing = ir.IntType(32), ir.VoidType()
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(nothing, [pointer, number, number, number])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        at = builder.bitcast(builder.gep(data, [arguments[1]]), pointer)
        builder.call(ask, [at, number(0), number(2), number(1)])  # to read, second cache, data
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@intrinsic
def add_looked_up(typing_context, sums, plane, starts, tables):
    """sums[e] += tables[i, plane[starts[i] + e]] for four i, no more than 255.

    sums: uint8 [R], R a multiple of 64; plane: uint8; starts: int64 [4]; tables: uint8 [4, 256].
    """

    def generate(context, builder, signature, arguments):
        if not WIDE:
            return context.get_dummy_value()  # never called: compiled all the same
        sums, plane, starts, tables = (
            context.make_array(kind)(context, builder, argument)
            for kind, argument in zip(signature.args, arguments, strict=True)
        )
        pick = _called(builder, "x86.avx512.vpermi2var.qi.512", _BYTES, _BYTES, _BYTES, _BYTES)
        add = _called(builder, "uadd.sat.v64i8", _BYTES, _BYTES, _BYTES)
        parts = [
            _loaded(builder, _vector(builder, tables.data, _WORD(part), _BYTES))
            for part in range(0, 4 * 256, 64)
        ]
        starts = [builder.load(builder.gep(starts.data, [_WORD(i)])) for i in range(4)]
        blocks = builder.lshr(builder.extract_value(sums.shape, 0), _WORD(6))
        with cgutils.for_range(builder, blocks) as loop:
            at = builder.shl(loop.index, _WORD(6))
            to = _vector(builder, sums.data, at, _BYTES)
            total = _loaded(builder, to)
            for i, start in enumerate(starts):
                which = _loaded(
                    builder, _vector(builder, plane.data, builder.add(start, at), _BYTES)
                )
                lower, upper = (
                    builder.call(pick, [parts[4 * i + j], which, parts[4 * i + j + 1]])
                    for j in (0, 2)
                )
                is_upper = builder.icmp_signed("<", which, _BYTES([0] * 64))
                found = builder.select(is_upper, upper, lower)
                total = builder.call(add, [total, found])
            builder.store(total, to).align = 1
        return context.get_dummy_value()

    return types.void(sums, plane, starts, tables), generate


@intrinsic
def append_within(typing_context, places, sums, limit):
    """Numbers e of sums[e] <= limit, ascending, into uint16 ``places``; returns how many.

    sums: uint8 [R], R a multiple of 64, R <= 2^16; places: uint16 [R + 64]; limit: uint8.
    """

    def generate(context, builder, signature, arguments):
        if not WIDE:
            return _WORD(0)
        places, sums = (
            context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 1)
        )
        flags = ir.VectorType(ir.IntType(1), 32)
        pack = _called(builder, "x86.avx512.mask.compress.v32i16", _HALF, _HALF, _HALF, flags)
        most = _repeated(builder, arguments[2], _BYTES)
        count = cgutils.alloca_once_value(builder, _WORD(0))
        blocks = builder.lshr(builder.extract_value(sums.shape, 0), _WORD(6))
        with cgutils.for_range(builder, blocks) as loop:
            at = builder.shl(loop.index, _WORD(6))
            some = _loaded(builder, _vector(builder, sums.data, at, _BYTES))
            within = builder.bitcast(builder.icmp_unsigned("<=", some, most), _WORD)
            for half in (0, 32):
                bits = builder.trunc(builder.lshr(within, _WORD(half)), ir.IntType(32))
                first = _repeated(builder, builder.trunc(at, ir.IntType(16)), _HALF)
                numbers = builder.add(first, _HALF([half + i for i in range(32)]))
                packed = [numbers, _HALF([0] * 32), builder.bitcast(bits, flags)]
                to = _vector(builder, places.data, builder.load(count), _HALF)
                builder.store(builder.call(pack, packed), to).align = 1
                more = builder.zext(builder.ctpop(bits), _WORD)
                builder.store(builder.add(builder.load(count), more), count)
        return builder.load(count)

    return types.uint64(places, sums, types.uint8), generate


def _called(builder, name, result, *arguments):
    kind = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}")


def _vector(builder, start, offset, kind):
    """Where the vector is that begins at an element of an array."""
    return builder.bitcast(builder.gep(start, [offset]), kind.as_pointer())


def _loaded(builder, pointer):
    loaded = builder.load(pointer)
    loaded.align = 1
    return loaded


def _repeated(builder, value, kind):
    lanes = ir.VectorType(ir.IntType(32), kind.count)
    one = builder.insert_element(kind(ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, kind(ir.Undefined), lanes([0] * kind.count))
