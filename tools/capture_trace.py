#!/usr/bin/env python3
"""Records a trace for `winnow run` from any causal language model that transformers can load.

    capture_trace.py MODEL PROMPT_FILE OUT.safetensors [--layers 0,7,14] [--generate 32]
                     [--tokens 2048] [--needle "the planted sentence"] [--expected]

MODEL is a directory or name for from_pretrained. The prompt is read, cut to --tokens, the model
generates greedily, and then one pass over the whole text records what attention is given on each
layer: queries, keys and values after rotation. The format is described in README.md.

Needs torch, transformers and safetensors.
"""
import argparse
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

recorded = {}  # layer -> (q, k, v) as [heads, tokens, channels], and the scale


def record(module, query, key, value, attention_mask, scaling=None, **rest):
    """An attention function that keeps its inputs and leaves the work to PyTorch's own."""
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    recorded[module.layer_idx] = (query[0].clone(), key[0].clone(), value[0].clone(), scale)
    return ALL_ATTENTION_FUNCTIONS["sdpa"](
        module, query, key, value, attention_mask, scaling=scaling, **rest)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompt", help="a text file")
    parser.add_argument("out", help="the trace, NAME.safetensors")
    parser.add_argument("--layers", help="numbers, separated by commas; default: all")
    parser.add_argument("--generate", type=int, default=32, help="tokens to generate")
    parser.add_argument("--tokens", type=int, default=0, help="cut the prompt; default: all of it")
    parser.add_argument("--needle", help="a sentence of the prompt whose tokens are the planted fact")
    parser.add_argument("--expected", action="store_true",
                        help="also write NAME.expected.safetensors, in float64")
    return parser.parse_args()


def generate(model, ids, count):
    """The prompt's ids and exactly `count` more, chosen greedily."""
    if count == 0:
        return ids
    with torch.no_grad():
        out = model.generate(torch.tensor([ids]), max_new_tokens=count, min_new_tokens=count,
                             do_sample=False, pad_token_id=model.config.eos_token_id)
    return out[0].tolist()


def find_needle(pieces, context, needle):
    """Tokens [begin, end) of the prompt that cover the sentence; (0, 0) without one."""
    if not needle:
        return 0, 0
    starts, text = [], b""
    for piece in pieces[:context]:
        starts.append(len(text))
        text += piece
    at = text.find(needle.encode())
    if at < 0:
        sys.exit("capture_trace.py: the needle is not in the prompt")
    end = at + len(needle.encode())
    inside = [t for t, s in enumerate(starts) if s < end and s + len(pieces[t]) > at]
    return inside[0], inside[-1] + 1


def dense(q, k, v, scale, rows):
    """Causal attention of some rows in float64: outputs and natural-log LSE."""
    q, k, v = q.double(), k.double(), v.double()
    group = q.shape[1] // k.shape[1]
    out = torch.empty(len(rows), q.shape[1], v.shape[2], dtype=torch.float64)
    lse = torch.empty(len(rows), q.shape[1], dtype=torch.float64)
    for i, row in enumerate(rows):
        for head in range(q.shape[1]):
            scores = (k[:row + 1, head // group] @ q[row, head]) * scale
            lse[i, head] = torch.logsumexp(scores, 0)
            out[i, head] = torch.softmax(scores, 0) @ v[:row + 1, head // group]
    return out, lse


def main():
    args = arguments()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, attn_implementation="sdpa").eval()
    ids = tokenizer(open(args.prompt, encoding="utf-8").read()).input_ids
    if args.tokens:
        ids = ids[:args.tokens]
    context = len(ids)
    ids = generate(model, ids, args.generate)

    ALL_ATTENTION_FUNCTIONS.register("record", record)
    model.config._attn_implementation = "record"
    with torch.no_grad():
        model(torch.tensor([ids]))

    pieces = [tokenizer.decode([i]).encode() for i in ids]
    offsets = [0]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    begin, end = find_needle(pieces, context, args.needle)

    layers = [int(n) for n in args.layers.split(",")] if args.layers else sorted(recorded)
    missing = [n for n in layers if n not in recorded]
    if missing:
        sys.exit(f"capture_trace.py: nothing was recorded for layers {missing}; there are "
                 f"{sorted(recorded)}")
    scales = {recorded[n][3] for n in layers}
    if len(scales) != 1:
        sys.exit(f"capture_trace.py: the layers have different softmax scales: {sorted(scales)}")
    scale = scales.pop()
    rows = sorted(set(range(0, context, max(1, context // 40))) | {context - 1}
                  | set(range(context, len(ids))))
    tensors = {"tokens": torch.tensor(ids, dtype=torch.int32),
               "token_text": torch.frombuffer(bytearray(b"".join(pieces)), dtype=torch.uint8),
               "token_text_offsets": torch.tensor(offsets, dtype=torch.int32)}
    expected = {"rows": torch.tensor(rows, dtype=torch.int32)}
    for n in layers:
        q, k, v = (x.transpose(0, 1).to(torch.bfloat16).contiguous() for x in recorded[n][:3])
        tensors[f"layers.{n}.q"], tensors[f"layers.{n}.k"], tensors[f"layers.{n}.v"] = q, k, v
        if args.expected:
            expected[f"layers.{n}.out"], expected[f"layers.{n}.lse"] = dense(q, k, v, scale, rows)
    save_file(tensors, args.out, metadata={
        "format": "winnow.trace/1", "model": args.model.rstrip("/").split("/")[-1],
        "num_hidden_layers": str(model.config.num_hidden_layers), "softmax_scale": repr(scale),
        "context_length": str(context), "rope": "applied",
        "needle_begin": str(begin), "needle_end": str(end)})
    if args.expected:
        save_file(expected, args.out.removesuffix(".safetensors") + ".expected.safetensors",
                  metadata={"format": "winnow.expected/1",
                            "what": "dense causal attention, float64, natural-log LSE"})
    print(f"{args.out}: {context} + {len(ids) - context} tokens, layers {layers}")


if __name__ == "__main__":
    main()
