#!/usr/bin/env python3
"""Do tests mirror the sources? Usage: check_mirror.py ROOT. Exits 1 if not.

Each source folder/x.c has tests/folder/test_x.c, and each test has its source; a plugin's test is
named after its folder. mirror_exceptions.txt lists what is otherwise and why. File names are unique
within a folder's tree."""
import collections
import fnmatch
import pathlib
import sys

FOLDERS = ("core", "kernels", "kvcache", "plugins", "tools")


def read_exceptions(path):
    """[(pattern, reason)]; a line is `pattern  reason`, '#' begins a comment."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        pattern, _, reason = line.partition(" ")
        if not reason.strip():
            sys.exit(f"{path}:{number}: {pattern} has no reason")
        found.append((pattern, reason.strip()))
    return found


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    exceptions = read_exceptions(pathlib.Path(__file__).with_name("mirror_exceptions.txt"))
    used = set()
    bad = []

    def excepted(name):
        hits = [pattern for pattern, _ in exceptions if fnmatch.fnmatch(name, pattern)]
        used.update(hits)
        return bool(hits)

    names = collections.defaultdict(list)
    for folder in FOLDERS:
        sources = sorted((root / folder).rglob("*.c"))
        sources = [s for s in sources if "skeleton" not in s.parts]
        tests = {t.stem[len("test_"):]: t for t in (root / "tests" / folder).glob("test_*.c")}
        subjects = {s.stem for s in (root / folder).rglob("*.[ch]")}
        for source in sources:
            name = str(source.relative_to(root))
            # An op's file has one name in every folder of variants: the path says which.
            if not name.startswith("kernels/cpu/"):
                names[source.name].append(name)
            if source.stem not in tests and not excepted(name):
                bad.append(f"{name}: there is no tests/{folder}/test_{source.name}")
        for stem, test in sorted(tests.items()):
            name = str(test.relative_to(root))
            if stem not in subjects and not excepted(name):
                bad.append(f"{name}: there is no {folder}/{stem}.c")
    for name, places in names.items():
        if len(places) > 1 and not excepted(name):
            bad.append(f"{name}: is the name of {' and '.join(places)}")
    for pattern, _ in exceptions:
        if pattern not in used:
            bad.append(f"mirror_exceptions.txt: {pattern} is not needed any more")
    print("\n".join(bad))
    print(f"{sum(map(len, names.values()))} sources, {len(bad)} complaints")
    return 1 if bad else 0


sys.exit(main())
