#!/usr/bin/env python3
"""Makes a synthetic trace: any geometry, no model needed. Needs numpy.

    make_trace.py deepseek.safetensors --form mla    # DeepSeek-V3.2's shapes, 256 tokens
    make_trace.py gqa.safetensors --heads 32 --kv-heads 8 --head-dim 128 --tokens 2000 --seed 7

What the numbers are. Every token has a hidden vector of RANK numbers for what it is (z) and one
for what it asks (c). Keys are z, and queries c, carried into head_dim channels by one orthonormal
basis, with noise of each head on top; so heads agree in part, as those of a model do, and a small
set of tokens serves all of them. A lightning indexer gets z and c themselves with a little noise: it sees
what the heads agree on. The generated tokens ask for a planted needle with a quarter of the heads.

Beside the trace it writes what dense attention gives for some rows, in float64, as
NAME.expected.safetensors. The same arguments and seed give the same bytes.
"""
import argparse
import json
import struct
import sys

import numpy as np

RANK = 32
DEEPSEEK_SCALE = 192 ** -0.5 * (0.1 * np.log(40) + 1) ** 2  # 128 + 64 channels, YaRN by 40
FORMS = {  # defaults that a form brings along
    "mla": dict(heads=128, kv_heads=1, head_dim=576, v_head_dim=512, indexer_heads=64,
                indexer_dim=128, scale=DEEPSEEK_SCALE),
    "gqa": dict(heads=8, kv_heads=2, head_dim=64, v_head_dim=0, indexer_heads=4, indexer_dim=128,
                scale=0.0),
}
LOGIT_SPREAD = 2.0   # standard deviation of q.k * scale
NEEDLE_LOGIT = 12.0  # added to it where a reading head meets the needle
READERS = 4          # one head in so many reads the needle


# ---------------------------------------------------------------- safetensors

def to_bfloat16(values):
    """Bits of the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bits(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


NAMES = {"uint16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64", "int32": "I32"}


def write(path, tensors, metadata):
    """{name: array}; uint16 arrays are bfloat16's bits."""
    ordered = sorted(tensors.items(), key=lambda item: -item[1].itemsize)
    header, offset = {"__metadata__": metadata}, 0
    for name, array in ordered:
        header[name] = {"dtype": NAMES[array.dtype.name], "shape": list(array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in ordered:
            file.write(np.ascontiguousarray(array).tobytes())


# ---------------------------------------------------------------- numbers

def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("out", help="NAME.safetensors")
    add("--form", choices=FORMS, default="gqa", help="what the defaults below are taken from")
    add("--tokens", type=int, default=256, help="of the prompt [256]")
    add("--generated", type=int, default=16, help="after it, one by one [16]")
    add("--layers", type=int, nargs="+", default=[0], help="their numbers [0]")
    add("--heads", type=int)
    add("--kv-heads", type=int)
    add("--head-dim", type=int)
    add("--v-head-dim", type=int, help="0: head_dim")
    add("--indexer-heads", type=int, help="0: no indexer")
    add("--indexer-dim", type=int)
    add("--scale", type=float, help="softmax scale; 0: head_dim^-0.5")
    add("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    add("--needle", type=int, nargs=2, metavar=("BEGIN", "END"),
        help="tokens of the prompt; equal: none [8 in its second quarter]")
    add("--seed", type=int, default=1)
    options = parser.parse_args()
    for name, value in FORMS[options.form].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.scale = options.scale or options.head_dim ** -0.5
    options.v_head_dim = options.v_head_dim or options.head_dim
    begin = options.tokens * 3 // 8
    options.needle = options.needle or [begin, min(begin + 8, options.tokens)]
    check(parser, options)
    return options


def check(parser, o):
    if not o.out.endswith(".safetensors"):
        parser.error("the name should end in .safetensors")
    if min(o.tokens, o.heads, o.kv_heads, o.v_head_dim) < 1 or o.generated < 0:
        parser.error("tokens, heads, KV heads and channels should be positive")
    if o.heads % o.kv_heads:
        parser.error(f"{o.heads} heads cannot share {o.kv_heads} KV heads evenly")
    if o.head_dim < RANK or (o.indexer_heads and o.indexer_dim < RANK):
        parser.error(f"head and indexer dimensions should be at least {RANK}")
    if o.form == "mla" and (o.kv_heads != 1 or o.v_head_dim > o.head_dim):
        parser.error("MLA has one KV head, and a value is the first channels of its key")
    if not 0 <= o.needle[0] <= o.needle[1] <= o.tokens:
        parser.error("the needle should lie in the prompt")


def hidden(o, random):
    """z, c [tokens, RANK] and the needle's direction, in units that make one logit apart from 1."""
    total = o.tokens + o.generated
    z, c = random.standard_normal((2, total, RANK))
    direction = random.standard_normal(RANK)
    direction /= np.linalg.norm(direction)
    z[o.needle[0]:o.needle[1]] += 3 * direction
    return z, c, direction


def make_layer(o, random, store):
    """One layer's tensors by their short names, already stored as o.dtype."""
    total = o.tokens + o.generated
    z, c, direction = hidden(o, random)
    basis = np.linalg.qr(random.standard_normal((o.head_dim, RANK)))[0].T
    # What the heads share has RANK channels and their own noise head_dim: half the variance each.
    spread = np.sqrt(LOGIT_SPREAD / o.scale / np.sqrt(2 * RANK))
    noise = (RANK / o.head_dim) ** 0.25
    q = random.standard_normal((total, o.heads, o.head_dim)) * noise
    k = random.standard_normal((total, o.kv_heads, o.head_dim)) * noise
    asks = c[:, None, :].repeat(o.heads, 1)
    wanted = NEEDLE_LOGIT / LOGIT_SPREAD * np.sqrt(2 * RANK) / 3
    if o.needle[0] < o.needle[1]:
        asks[o.tokens:, ::READERS] += wanted * direction
        c[o.tokens:] += wanted / READERS * direction
    q, k = (q + asks @ basis) * spread, (k + (z @ basis)[:, None, :]) * spread
    tensors = {"q": store(q)}
    if o.form == "mla":
        tensors["kv"] = store(k[:, 0])
    else:
        tensors["k"] = store(k)
        tensors["v"] = store(random.standard_normal((total, o.kv_heads, o.v_head_dim)))
    if o.indexer_heads:
        tensors |= make_indexer(o, random, z, c)
    return tensors


def make_indexer(o, random, z, c):
    total = len(z)
    q = random.standard_normal((total, o.indexer_heads, o.indexer_dim)) * 0.3
    k = random.standard_normal((total, o.indexer_dim)) * 0.3
    q[:, :, :RANK] += c[:, None, :]
    k[:, :RANK] += z
    weights = random.random((total, o.indexer_heads)) / np.sqrt(o.indexer_heads * o.indexer_dim)
    return {"indexer.q": to_bfloat16(q), "indexer.k": to_bfloat16(k),
            "indexer.weights": weights.astype(np.float32)}


def expect(o, tensors, load, rows):
    """Dense causal attention of the rows, in float64: out [rows, heads, v_head_dim], lse."""
    q = load(tensors["q"])
    k = load(tensors["kv"])[:, None] if o.form == "mla" else load(tensors["k"])
    v = k[:, :, :o.v_head_dim] if o.form == "mla" else load(tensors["v"])
    out = np.empty((len(rows), o.heads, o.v_head_dim))
    lse = np.empty((len(rows), o.heads))
    group = o.heads // o.kv_heads
    for i, row in enumerate(rows):
        for h in range(o.kv_heads):
            own = slice(h * group, (h + 1) * group)
            logits = q[row, own] @ k[:row + 1, h].T * np.float64(np.float32(o.scale))
            greatest = logits.max(1)
            weight = np.exp(logits - greatest[:, None])
            lse[i, own] = greatest + np.log(weight.sum(1))
            out[i, own] = weight @ v[:row + 1, h] / weight.sum(1)[:, None]
    return out, lse


def main():
    o = parse_arguments()
    random = np.random.default_rng(o.seed)
    total = o.tokens + o.generated
    kinds = {"bfloat16": (to_bfloat16, lambda a: from_bits(a).astype(np.float64)),
             "float16": (np.float16, np.float64), "float32": (np.float32, np.float64)}
    store, load = kinds[o.dtype]
    rows = np.unique(np.append(np.linspace(0, o.tokens - 1, 8), np.arange(o.tokens, total)))
    rows = rows.astype(np.int32)
    metadata = {"format": "winnow.trace/1", "model": f"synthetic {o.form}, seed {o.seed}",
                "softmax_scale": repr(float(np.float32(o.scale))), "context_length": str(o.tokens),
                "needle_begin": str(o.needle[0]), "needle_end": str(o.needle[1])}
    if o.form == "mla":
        metadata["v_head_dim"] = str(o.v_head_dim)
    trace, expected = {}, {"rows": rows}
    for number in o.layers:
        tensors = make_layer(o, random, store)
        out, lse = expect(o, tensors, load, rows)
        trace |= {f"layers.{number}.{name}": array for name, array in tensors.items()}
        expected |= {f"layers.{number}.out": out, f"layers.{number}.lse": lse}
    write(o.out, trace, metadata)
    write(o.out.removesuffix(".safetensors") + ".expected.safetensors", expected, {})
    return 0


if __name__ == "__main__":
    sys.exit(main())
