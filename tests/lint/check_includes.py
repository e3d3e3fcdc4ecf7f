#!/usr/bin/env python3
"""Who may include whom. Usage: check_includes.py ROOT. Prints each violation, exits 1 if any.

abi -> nothing; kernels -> abi; kvcache -> abi, kernels; core -> abi, kernels, kvcache;
plugins -> abi, and files of their own folder; tools -> the public headers, and tools.
Includes of our own files are written from the root, or "winnow/..." for public headers."""
import pathlib
import re
import sys

MAY_INCLUDE = {  # folder: folders whose headers it may include; "abi" and "host" are winnow/*.h
    "abi": {"abi"},
    "kernels": {"abi", "kernels"},
    "kvcache": {"abi", "kernels", "kvcache"},
    "core": {"abi", "host", "kernels", "kvcache", "core"},
    "plugins": {"abi"},
    "tools": {"abi", "host", "tools"},
}
# What the headers of the ABI may take from the system: it must be there in freestanding C99, but
# for the two that formatting an error needs.
ABI_SYSTEM = {"stddef.h", "stdint.h", "stdarg.h", "stdio.h", "string.h"}
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.M)


def owner(root, folder, source, path):
    """The folder that an include in quotes belongs to, or None with a complaint."""
    if path.startswith("winnow/"):
        if (root / "abi/include" / path).is_file():
            return "abi", None
        if (root / "core/include" / path).is_file():
            return "host", None
        return None, "there is no such public header"
    if "/" in path and (root / path).is_file():
        return path.split("/")[0], None
    if folder in ("plugins", "tools") and "/" not in path and (source.parent / path).is_file():
        return "own", None
    if (source.parent / path).is_file():
        return None, f'write it from the root: "{source.parent.relative_to(root) / path}"'
    return None, "there is no such file"


def complaints(root, folder, source):
    allowed = MAY_INCLUDE[folder]
    for bracket, path in INCLUDE.findall(source.read_text()):
        if bracket == "<":
            if path.startswith("winnow/"):
                yield f"<{path}>: our headers are included with quotes"
            elif folder == "abi" and path not in ABI_SYSTEM:
                yield f"<{path}>: abi may include {', '.join(sorted(ABI_SYSTEM))} alone"
            continue
        whose, why = owner(root, folder, source, path)
        if whose is None:
            yield f'"{path}": {why}'
        elif whose == "own":
            continue
        elif folder == "plugins" and path.startswith(f"plugins/{source.parent.name}/"):
            continue
        elif whose not in allowed:
            yield f'"{path}": {folder} may include {", ".join(sorted(allowed))} alone'


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    seen = bad = 0
    for folder in MAY_INCLUDE:
        for source in sorted((root / folder).rglob("*")):
            if source.suffix not in (".c", ".h", ".def", ".cu", ".cuh"):
                continue
            if "skeleton" in source.parts:  # templates of plugins, compiled elsewhere
                continue
            seen += 1
            for text in complaints(root, folder, source):
                bad += 1
                print(f"{source.relative_to(root)}: {text}")
    print(f"{seen} files, {bad} forbidden includes")
    return 1 if bad or seen < 30 else 0


sys.exit(main())
