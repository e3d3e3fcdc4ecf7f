"""bench_torch.py: PyTorch's side of `winnow bench`. Reads "OP key=value ..." and makes data for it,
answering "ready" or "no"; then, for each "go", runs it and answers milliseconds. Each op in the form
in which PyTorch is fastest: for generation the group of query heads as query rows, because
enable_gqa=True takes ten times as long."""
import sys
import time

try:
    import torch
except ImportError:
    print("no torch", flush=True)
    sys.exit(0)

FRESH = 16
attention = torch.nn.functional.scaled_dot_product_attention


def dtype_of(shape):
    """Caches of 8 bits have no counterpart: the peer gets bfloat16."""
    return {"float32": torch.float32, "float16": torch.float16}.get(shape["dtype"], torch.bfloat16)


def generation(s):
    if s["selected"] or s["window"]:
        return None
    group, dtype = s["heads"] // s["kv_heads"], dtype_of(s)
    lengths = [s["length"]] * s["batch"] + [s["others_length"]] * s["others"]
    rows = group * s["queries"]
    q = [torch.rand(1, s["kv_heads"], rows, s["head_dim"]).to(dtype) for _ in lengths]
    k = [torch.rand(1, s["kv_heads"], n, s["head_dim"]).to(dtype) for n in lengths]
    v = [torch.rand(1, s["kv_heads"], n, s["head_dim"]).to(dtype) for n in lengths]
    return lambda turn: [attention(a, b, c) for a, b, c in zip(q, k, v)]


def context(s):
    if s["queries"] not in (0, s["length"]) or s["window"] or s["cold"]:
        return None
    dtype, group = dtype_of(s), s["heads"] // s["kv_heads"]
    q = torch.rand(s["batch"], s["heads"], s["length"], s["head_dim"]).to(dtype)
    k, v = (torch.rand(s["batch"], s["kv_heads"], s["length"], s["head_dim"]).to(dtype)
            .repeat_interleave(group, 1) for _ in range(2))
    return lambda turn: attention(q, k, v, is_causal=True)


def mla(s):
    """As float32 matrix products, the fastest of what was tried."""
    pool = torch.rand(s["length"], s["head_dim"])
    q, scale, v_dim = torch.rand(s["heads"], s["head_dim"]), s["head_dim"] ** -0.5, s["v_head_dim"]
    chosen = torch.randperm(s["length"])[:s["selected"]].sort()[0] if s["selected"] else None

    def run(turn):
        k = pool if chosen is None else pool[chosen]
        return torch.softmax(q @ k.T * scale, -1) @ k[:, :v_dim]
    return run if s["batch"] == 1 else None


def topk(s):
    fresh = max(FRESH, min(512, (1 << 21) // (s["rows"] * s["n"])))
    rows = torch.randn(fresh, s["rows"], s["n"])
    return lambda turn: torch.topk(rows[turn % fresh], s["k"], sorted=False)


def indexer_topk(s):
    if s["batch"] != 1:
        return None
    keys = torch.rand(s["length"], s["head_dim"])
    q = torch.randn(FRESH, s["queries"], s["heads"], s["head_dim"])
    w = torch.randn(s["queries"], s["heads"])

    def run(turn):
        scores = torch.relu(torch.einsum("qhd,kd->qhk", q[turn % FRESH], keys))
        return torch.topk(torch.einsum("qhk,qh->qk", scores, w), s["k"], sorted=False)
    return run


OPS = {f.__name__: f for f in (generation, context, mla, topk, indexer_topk)}


def prepare(line):
    op, *words = line.split()
    shape = dict(word.split("=") for word in words)
    shape = {key: value if key == "dtype" else int(value) for key, value in shape.items()}
    torch.set_num_threads(shape["threads"])
    return OPS[op](shape) if op in OPS else None


def main():
    print("torch", torch.__version__.split("+")[0], flush=True)
    torch.manual_seed(1)
    run, turn = None, 0
    with torch.inference_mode():
        for line in sys.stdin:
            if line.strip() == "go":
                turn += 1
                begun = time.perf_counter()
                run(turn)
                print(1e3 * (time.perf_counter() - begun), flush=True)
            else:
                run = None  # the last row's data first
                try:
                    run = prepare(line)
                except RuntimeError:  # no memory
                    pass
                print("ready" if run else "no", flush=True)


main()
