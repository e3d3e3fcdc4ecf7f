#!/usr/bin/env python3
"""Measures each algorithm at several budgets over recorded traces and writes a page of tables for
each trace. Standard library alone.

    tools/results.py --winnow build/release/bin/winnow --out tests/results TRACE.safetensors...

What is measured is `winnow run --oracle --json`; a row of a table is one configuration. Budgets
are the same for all traces, so that pages can be compared; left out are those that keep a whole
prompt or less than a sixteenth of it.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


# ---------------------------------------------------------------- what is measured

def read_header(path):
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        return json.loads(file.read(size))


def rocket(header):
    context = int(header["__metadata__"]["context_length"])
    budgets = [budget for budget in (256, 512, 1024, 2048) if context / 16 < budget < context]
    return [{"prompt_budget": budget, "topk": topk} for budget in budgets for topk in (16, 32, 64)]


def skip_softmax(header):
    return [{"threshold_scale_factor": factor} for factor in (5, 20, 100, 500, 1000)]


def dsa(header):
    if not any(name.endswith(".indexer.q") for name in header):
        return []
    return [{"index_topk": topk, "indexer_k_dtype": dtype}
            for dtype in ("bf16", "fp8", "int8") for topk in (64, 128, 256, 512)]


# Algorithm, its configurations for a trace, the keys that a row names, why there may be no row.
GROUPS = [("rocket", rocket, ("prompt_budget", "topk"), "The prompt is within every budget."),
          ("skip_softmax", skip_softmax, ("threshold_scale_factor",), ""),
          ("dsa", dsa, ("indexer_k_dtype", "index_topk"), "The trace carries no indexer.")]


def run(winnow, trace, algorithm, settings):
    """The run's JSON; methods[1:] are `settings` in order."""
    with tempfile.TemporaryDirectory() as directory:
        files = []
        for number, keys in enumerate(settings):
            file = pathlib.Path(directory) / f"{number}.yaml"
            entry = {"algorithm": algorithm, **keys}
            file.write_text(json.dumps({"sparse_attention_config": entry}))  # JSON is YAML
            files.append(str(file))
        done = subprocess.run([winnow, "run", *files, "--trace", str(trace), "--oracle", "--json"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{trace}, {algorithm}: winnow run exits with {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


# ---------------------------------------------------------------- tables

def amount(count):
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def rows_of(method, kind):
    """The cells of one phase's rows: mass, oracle, ratio, error; dashes for what was not measured."""
    quality, oracle = method[f"{kind}_rows"], method["oracle"][f"{kind}_rows"]
    mass, error = quality["retained_mass"], quality["output_error"]
    cells = [f"{mass['mean']:.4f}", f"{mass['worst']:.4f}"]
    if oracle is None:
        cells += ["-", "-", "-", "-"]
    else:
        cells += [f"{oracle['tokens']:.0f}", f"{oracle['oracle']['mean']:.4f}",
                  f"{oracle['ratio']['mean']:.4f}", f"{oracle['ratio']['worst']:.4f}"]
    return cells + [f"{error['mean']:.4f}", f"{error['worst']:.3f}"]


def tables(keys, settings, dense, methods, fact):
    def line(cells):
        return "| " + " | ".join(str(cell) for cell in cells) + " |"

    head = [*keys, "mass mean", "least", "tokens", "oracle mean", "ratio mean", "least",
            "error mean", "worst"]
    cost = ["KV kept", "read per token", "of dense"] + (["fact"] if fact else [])
    text = ["Generated tokens:", "", line(head + cost), line(["---"] * len(head + cost))]
    for setting, method in zip(settings, methods):
        read = method["read_bytes_per_token"]
        cells = [amount(method["kept_bytes"]), amount(read),
                 f"{100 * read / dense['read_bytes_per_token']:.0f}%"]
        if fact:  # it is judged by what was visible; tiles skipped inside the kernel are, too
            cells.append("-" if method["generation_tiles_skipped"] else method["fact"]["verdict"])
        text.append(line([setting[key] for key in keys] + rows_of(method, "generated") + cells))
    touched = [(s, m) for s, m in zip(settings, methods)
               if m["prompt_rows"]["retained_mass"]["worst"] < 0.9999]
    if touched:
        text += ["", "The prompt's own tokens:", "", line(head), line(["---"] * len(head))]
        text += [line([setting[key] for key in keys] + rows_of(method, "prompt"))
                 for setting, method in touched]
    return text


def page(winnow, trace):
    header = read_header(trace)
    text = []
    for algorithm, settings_for, keys, why_none in GROUPS:
        settings = settings_for(header)
        text += ["", f"## {algorithm}", ""]
        if not settings:
            text.append(why_none)
            continue
        print(f"{trace.name}: {algorithm}, {len(settings)} configurations", file=sys.stderr)
        result = run(winnow, trace, algorithm, settings)
        dense, *methods = result["methods"]
        layers = ", ".join(str(layer["layer"]) for layer in dense["layers"])
        check = result.get("check")
        told = "was not checked" if check is None else \
            f"was checked over {check['rows']} rows, greatest LSE error {check['lse_error']:.1e}"
        read = amount(dense["read_bytes_per_token"])
        text += [f"Layers {layers}. Dense attention reads {read} per token and {told}.", ""]
        text += tables(keys, settings, dense, methods, "fact" in dense)
    return header["__metadata__"], text


# ---------------------------------------------------------------- where it was measured

def commit():
    def git(*arguments):
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
        return done.stdout
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!tests/results").strip()
    name = git("rev-parse", "--short", "HEAD").strip() or "unknown"
    return f"{name} and changes since" if changed else name


def machine():
    model = platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    kernels = os.environ.get("WINNOW_KERNELS", "the default choice")
    return f"{model}, {os.cpu_count()} cores, {platform.system()}; kernels: {kernels}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("traces", nargs="+", type=pathlib.Path, metavar="TRACE.safetensors")
    parser.add_argument("--winnow", default="winnow", help="the command [winnow]")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests" / "results",
                        help="directory for the pages [tests/results]")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tree = commit()  # now: a measurement takes minutes, in which the tree may move on
    for trace in options.traces:
        metadata, tables_text = page(options.winnow, trace)
        head = [f"# {trace.stem}", "",
                f"{metadata.get('model', 'unnamed model')}, {metadata['context_length']} tokens "
                "of prompt. Columns: README.md.", "",
                f"- date: {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}",
                f"- commit: {tree}", f"- machine: {machine()}"]
        path = options.out / f"{trace.stem}.md"
        path.write_text("\n".join(head + tables_text) + "\n")
        print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
