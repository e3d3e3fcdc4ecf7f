#!/usr/bin/env python3
"""What the root README shows is true: the host compiles, the plugin is the file in the tree, every
folder of the map is there, and every subcommand has its line.

usage: test_readme.py SOURCE_ROOT WINNOW C_COMPILER
"""
import pathlib
import re
import subprocess
import sys


def main():
    root, winnow, compiler = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    text = (root / "README.md").read_text()
    host, plugin = re.findall(r"```c\n(.*?)```", text, re.S)
    problems = []
    compiled = subprocess.run(
        [compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c",
         f"-I{root}/abi/include", f"-I{root}/core/include", "-"],
        input=host, capture_output=True, text=True)
    if compiled.returncode != 0:
        problems.append("the host in README.md does not compile:\n" + compiled.stderr)
    if plugin.strip() != (root / "plugins/window/window.c").read_text().strip():
        problems.append("the plugin in README.md is not plugins/window/window.c: copy it")
    for folder in re.findall(r"^\| `(\w+)/` \|", text, re.M):
        if not (root / folder / "README.md").is_file():
            problems.append(f"README.md's map has {folder}/, which has no README.md")
    overview = subprocess.run([winnow, "--help"], capture_output=True, text=True).stdout
    for name in re.findall(r"^  (\w+) {2,}", overview, re.M):
        if f"`winnow {name}" not in text:
            problems.append(f"README.md does not mention winnow {name}")
    print("\n".join(problems) or "README.md holds")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
