"""One token at a time through the parts of a Llama layer, on a CPU, compiled.

A step has as many rows as there are images, twice, and a matrix product of so few rows is bound by
the time its weights take to arrive: a library's product of two rows takes twice as long as reading
them does. A row's result is summed in one order whatever the other rows are, so that it is the
same, bit for bit, in any batch.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SUMS = {"reassoc", "contract", "nsz"}
"""A sum may be kept in several parts, which a vector unit needs; infinities are left alone."""


@njit(cache=True, nogil=True, fastmath=SUMS)
def multiply(x, weight, out):
    """x [R, K] by weight [N, K] -> out [R, N]; R is even.

    Four columns and two rows are summed at once. Which columns go together depends on N alone.
    """
    whole = len(weight) // 4 * 4
    for n in range(0, whole, 4):
        w0, w1, w2, w3 = weight[n], weight[n + 1], weight[n + 2], weight[n + 3]
        for r in range(0, len(x), 2):
            a, b = x[r], x[r + 1]
            s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = 0.0
            for k in range(len(a)):
                u, v = a[k], b[k]
                s0 += u * w0[k]
                s1 += u * w1[k]
                s2 += u * w2[k]
                s3 += u * w3[k]
                t0 += v * w0[k]
                t1 += v * w1[k]
                t2 += v * w2[k]
                t3 += v * w3[k]
            out[r, n], out[r, n + 1], out[r, n + 2], out[r, n + 3] = s0, s1, s2, s3
            out[r + 1, n], out[r + 1, n + 1], out[r + 1, n + 2], out[r + 1, n + 3] = t0, t1, t2, t3
    for n in range(whole, len(weight)):
        for r in range(len(x)):
            total = 0.0
            for k in range(x.shape[1]):
                total += x[r, k] * weight[n, k]
            out[r, n] = total


@njit(cache=True, nogil=True, fastmath=SUMS)
def _turn(x, cos, sin, out):
    """Rotary position of one head's numbers: x, cos, sin, out [d]."""
    half = len(x) // 2
    for i in range(half):
        out[i] = x[i] * cos[i] - x[half + i] * sin[i]
        out[half + i] = x[half + i] * cos[half + i] + x[i] * sin[half + i]


@njit(cache=True, nogil=True, fastmath=SUMS)
def _look(query, keys, values, seen, scale, shares, out):
    """What a query [d] takes from values [T, d] by their keys [T, d], of those seen [T]: [d]."""
    most = -np.inf
    for t in range(len(keys)):
        key, total = keys[t], 0.0
        for i in range(len(query)):
            total += query[i] * key[i]
        shares[t] = total * scale if seen[t] else -np.inf
        most = max(most, shares[t])
    whole = 0.0
    out[:] = 0.0
    for t in range(len(keys)):
        if seen[t]:
            share, value = np.exp(shares[t] - most), values[t]
            whole += share
            for i in range(len(out)):
                out[i] += share * value[i]
    for i in range(len(out)):
        out[i] /= whole


@njit(cache=True, nogil=True)
def _norm(x, square, weight, eps, out):
    """Root-mean-square norm in float32, rounded as transformers' Llama does: x, out [R, D].

    square: float32 [R], means of the squares. They are the caller's, since their last bit depends
    on the order in which a library adds up.
    """
    for r in range(len(x)):
        scale = np.float32(1.0) / np.sqrt(square[r] + np.float32(eps))
        for i in range(x.shape[1]):
            out[r, i] = weight[i] * np.float64(np.float32(x[r, i]) * scale)


@njit(cache=True, nogil=True)
def attention(x, square, norm, weights, turns, keys, values, seen, stop, scale, normed, out):
    """Self-attention of the token at ``stop``; its keys and values are added to those before it.

    x, normed, out: [R, D]; square, norm: see ``_norm``, a weight and eps. weights: of queries
    [H d, D], keys and values [G d, D], and the output [D, H d]; turns: cosine and sine [R, d];
    keys, values: [R, G, room, d]; seen: bool [R, room], which tokens are no pads; scale: of a
    query's products.
    """
    _norm(x, square, norm[0], norm[1], normed)
    wq, wk, wv, wo = weights
    cos, sin = turns
    rows, groups, _, size = keys.shape
    heads = len(wq) // size
    q, k = np.empty((rows, heads * size)), np.empty((rows, groups * size))
    v, taken = np.empty_like(k), np.empty_like(q)
    shares, turned = np.empty(stop + 1), np.empty(size)
    multiply(normed, wq, q)
    multiply(normed, wk, k)
    multiply(normed, wv, v)
    for r in range(rows):
        for g in range(groups):
            part = slice(g * size, (g + 1) * size)
            _turn(k[r, part], cos[r], sin[r], keys[r, g, stop])
            values[r, g, stop] = v[r, part]
        for h in range(heads):
            g, part = h * groups // heads, slice(h * size, (h + 1) * size)
            _turn(q[r, part], cos[r], sin[r], turned)
            held, holding = keys[r, g, : stop + 1], values[r, g, : stop + 1]
            _look(turned, held, holding, seen[r], scale, shares, taken[r, part])
    multiply(taken, wo, out)


@njit(cache=True, nogil=True, fastmath=SUMS)
def feed_forward(x, square, norm, weights, out):
    """A norm, a gated linear unit with SiLU, and x again: x, out [R, D].

    square, norm: as for ``attention``; weights: gate and up [I, D], down [D, I].
    """
    gate, up, down = weights
    opened, risen = np.empty((len(x), len(gate))), np.empty((len(x), len(up)))
    normed = np.empty_like(x)
    _norm(x, square, norm[0], norm[1], normed)
    multiply(normed, gate, opened)
    multiply(normed, up, risen)
    for r in range(len(x)):
        for i in range(len(gate)):
            risen[r, i] *= opened[r, i] / (1.0 + np.exp(-opened[r, i]))
    multiply(risen, down, out)
    for r in range(len(x)):
        for i in range(x.shape[1]):
            out[r, i] += x[r, i]
