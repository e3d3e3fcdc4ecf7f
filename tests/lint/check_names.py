#!/usr/bin/env python3
"""No algorithm's name in the framework. Usage: check_names.py ROOT. Exits 1 if there is one.

If core, kvcache or kernels ever need to know a plugin by name, the plugin door has failed. A name is
a folder of plugins/, unless it is also an everyday word, and those below."""
import pathlib
import re
import sys

EVERYDAY = {"window"}
MORE = {"dsa", "rocketkv", "blasst", "streamingllm", "nsa"}


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    plugins = {p.name for p in (root / "plugins").iterdir() if p.is_dir()}
    names = sorted((plugins - EVERYDAY) | MORE)
    # WN_TILE_SKIP_SOFTMAX and its like name a rule of the attention kernel, part of the ABI.
    words = re.compile(r"(?<![A-Za-z0-9])(" + "|".join(names) + r")(?![A-Za-z0-9])", re.I)
    bad = 0
    for folder in ("core", "kvcache", "kernels"):
        for source in sorted((root / folder).rglob("*")):
            if not source.is_file() or source.suffix not in (
                    ".c", ".h", ".def", ".md", ".txt", ".cu", ".cuh"):
                continue
            for number, line in enumerate(source.read_text().splitlines(), 1):
                for hit in words.finditer(re.sub(r"WN_[A-Z_]+", "", line)):
                    bad += 1
                    print(f"{source.relative_to(root)}:{number}: names {hit.group(0)}")
    print(f"looked for {', '.join(names)}: {bad} found")
    return 1 if bad else 0


sys.exit(main())
