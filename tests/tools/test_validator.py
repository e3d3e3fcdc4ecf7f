#!/usr/bin/env python3
"""Tests of the tester: every broken plugin fails exactly the tests that are about its mistake.

usage: test_validator.py WINNOW BROKEN_PLUGINS_DIRECTORY
"""
import json
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

# mistake: the tests that must fail, and no other. A text after a colon must be in the reason.
EXPECTED = {
    "good": [],
    "no_note": ["note-present"],
    "note_devices": ["note-wellformed"],
    "other_layout": ["note-abi-range"],
    "export_extra": ["exports-only-entry:broken_extra"],
    "gnu_unique": ["no-gnu-unique:broken_unique"],
    "late": ["relro-now"],
    "textrel": ["no-textrel"],
    "exec_stack": ["no-exec-stack"],
    "run_path": ["no-rpath:/opt/elsewhere"],
    "needs_library": ["needed-libs-allowed:libjansson"],
    "exit": ["no-forbidden-imports:exit"],
    "thread": ["load-changes-nothing"],
    "any_host": ["entry-too-old-host", "entry-too-new-host"],
    "refuses_silently": ["entry-too-old-host", "entry-too-new-host"],
    "another_each_time": ["entry-idempotent"],
    "version_differs": ["entry-agrees-with-note"],
    "interface_prefix": ["unknown-interface-null"],
    "field_size": ["struct-sizes"],
    "null_lower": ["config-functions"],
    "no_help": ["schema-wellformed"],
    "taken_name": ["schema-wellformed:\"layers\""],
    "default_range": ["defaults-valid"],
    "reason_and_ok": ["check-explains"],
    "leak": ["create-destroy-100:100 blocks"],
    "leak_malloc": ["create-destroy-100:malloc"],
    "crash": ["create-destroy-100:SIGSEGV"],
    "hang": ["create-destroy-100:killed"],
    "leave": ["create-destroy-100:before the test was over"],
    "no_reason": ["lower-keeps-promises"],
    "retained_count": ["retained-count-in-range"],
    "retain_unsorted": ["selection-in-range-and-sorted"],
    "retain_outside": ["selection-in-range-and-sorted"],
    "retain_fewer": ["selection-in-range-and-sorted"],
    "select_unsorted": ["selection-in-range-and-sorted"],
    "fails_in_batch": ["steps-run:one at a time"],
    "budget_lies": ["full-budget-equals-dense"],
    "attend_all": ["nan-in-unselected", "oracle-identity"],
    "reads_beyond": ["nan-in-unused-slots"],
    "depends_on_batch": ["alone-equals-batch"],
    "depends_on_threads": ["threads-do-not-matter"],
    "depends_on_pages": ["pages-do-not-matter"],
    "empty_request": ["empty-request:who asks for nothing?"],
    "depends_on_chunks": ["chunked-prompt"],
    "forgets_fork": ["fork-then-diverge"],
    "forgets_truncate": ["truncate-then-append"],
    "lse_base_2": ["oracle-identity:LSE"],
    "not_normalised": ["oracle-identity:channel"],
    "crash_at_greatest": ["config-every-field:SIGSEGV"],
    "hang_at_name": ["config-every-field:killed"],
    "leak_at_name": ["config-every-field:mode: wild} leaves memory behind"],
    "refuses_without_reason": ["config-every-field:depth: 64} is refused: without a reason"],
}
BEHAVIOUR = {"steps-run", "selection-in-range-and-sorted", "full-budget-equals-dense",
             "nan-in-unselected", "nan-in-unused-slots", "alone-equals-batch",
             "threads-do-not-matter", "pages-do-not-matter", "empty-request", "chunked-prompt",
             "fork-then-diverge", "truncate-then-append", "oracle-identity", "config-every-field"}
# What must hold for a plugin that crashes while it is loaded: every test that loads it has crashed,
# none of the others, and the validator lives to tell.
LOADERS = {"load-rtld-now", "steps-run"}


def validate(winnow, plugin, *options):
    done = subprocess.run(
        [winnow, "validate", "--format", "json", *options, plugin],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=500)
    report = json.loads(done.stdout)
    failed = {t["name"]: t["text"] for t in report["tests"] if t["outcome"] == "failed"}
    return done.returncode, failed, report


def judge(name, code, failed, report, problems):
    wanted = dict(w.partition(":")[::2] for w in EXPECTED[name])
    if set(failed) != set(wanted):
        problems.append(f"{name}: expected {sorted(wanted)} to fail, failed: {failed}")
    for test, text in wanted.items():
        if text not in (failed.get(test) or ""):
            problems.append(f"{name}: {test} should say \"{text}\", says: {failed.get(test)}")
    if code != (1 if wanted else 0):
        problems.append(f"{name}: exit status {code}")
    if not wanted and report["skipped"] > 0:
        problems.append(f"{name}: {report['skipped']} tests skipped: "
                        + ", ".join(t["name"] for t in report["tests"] if t["outcome"] == "skipped"))


def main():
    winnow, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    sanitized = "__asan_init" in subprocess.run(
        ["nm", "-D", winnow], capture_output=True, text=True, check=False).stdout
    problems = []
    # The sanitizers count malloc for themselves, replace crashes by reports and bring libraries.
    left_out = {"leak_malloc", "leak_at_name", "crash", "crash_at_greatest",
                "export_extra"} if sanitized else set()

    def one(name):
        timeout = "3" if name == "hang" and not sanitized else "60"
        if name == "hang_at_name":
            timeout = "20"
        options = ["--timeout", timeout]
        # Engines take their time: only mistakes that show in one, and `good`, run there.
        if name != "good" and not any(w.partition(":")[0] in BEHAVIOUR for w in EXPECTED[name]):
            options += ["-x", "behaviour"]
        if name == "hang":  # the other tests are not about it, and 3 seconds are not their limit
            options += ["-t", "create-destroy-100"]
        return name, validate(winnow, directory / name / f"{name}.so", *options)

    with ThreadPoolExecutor(2) as pool:
        for name, (code, failed, report) in pool.map(one, sorted(set(EXPECTED) - left_out)):
            judge(name, code, failed, report, problems)
    code, failed, _ = validate(winnow, directory / "crash_at_load" / "crash_at_load.so",
                               "-t", "static", "-t", "load-rtld-now", "-t", "steps-run")
    if code != 1 or not set(failed) <= LOADERS or "load-rtld-now" not in failed:
        problems.append(f"crash_at_load: exit status {code}, failed {failed}")
    print("\n".join(problems) or f"{len(EXPECTED) - len(left_out) + 1} plugins judged as they should be")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
