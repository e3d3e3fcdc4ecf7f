#!/usr/bin/env python3
"""Draws what `winnow bench --steps --json` measured: time per generated token over the length of the
context, dense attention and each method, both axes logarithmic. Needs matplotlib.

    winnow bench --steps --json > steps.json
    tools/plot.py steps.json tests/results/steps.svg

The ending of the picture's name chooses its form: .svg, .png, .pdf.
"""
import argparse
import json
import sys

COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#7b4f9e", "#b8860b", "#44525e")


def read(path):
    """{method: [(length, milliseconds, low, high)]} in the file's order, and the whole file."""
    with open(path) as file:
        whole = json.load(file)
    lines = {}
    for row in whole.get("steps", []):
        if row["measured"]:
            lines.setdefault(row["method"], []).append(
                (row["length"], row["total_ms"], *row["spread"]))
    if not lines:
        sys.exit(f"{path}: no steps in it: is it what `winnow bench --steps --json` printed?")
    return lines, whole


def length_text(length):
    return f"{length // 1024} Ki" if length % 1024 == 0 else str(length)


def draw(lines, whole, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    matplotlib.rcParams["svg.hashsalt"] = "winnow"  # the same figures give the same file

    figure, axes = plt.subplots(figsize=(7.2, 4.4))
    for (method, points), colour in zip(lines.items(), COLOURS * len(lines)):
        points.sort()
        lengths = [p[0] for p in points]
        dense = method == "dense"
        axes.plot(lengths, [p[1] for p in points], marker="o", markersize=4, label=method,
                  color="black" if dense else colour, linewidth=2 if dense else 1.4,
                  linestyle="--" if dense else "-")
        axes.fill_between(lengths, [p[2] for p in points], [p[3] for p in points],
                          color="black" if dense else colour, alpha=0.12, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({p[0] for points in lines.values() for p in points})
    axes.set_xticks(ticks, [length_text(n) for n in ticks])
    axes.minorticks_off()
    axes.set_xlabel("tokens in the context")
    axes.set_ylabel("ms per generated token and layer")
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False)
    machine = whole["machine"]
    axes.set_title(f"{machine['processor']}, {machine['threads']} threads, "
                   f"commit {whole['commit']}, {whole['date']}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("steps", help="the JSON of winnow bench --steps")
    parser.add_argument("picture", nargs="?", default="tests/results/steps.svg")
    arguments = parser.parse_args()
    draw(*read(arguments.steps), arguments.picture)


if __name__ == "__main__":
    main()
