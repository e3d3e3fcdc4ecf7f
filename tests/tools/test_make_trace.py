#!/usr/bin/env python3
"""Synthetic traces go through the command, and dense attention agrees with the float64 results that
were made beside them. Exit status 77 (skipped) where no python3 has numpy; the system's is tried where
another one, without it, comes first.

usage: test_make_trace.py WINNOW MAKE_TRACE
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy  # noqa: F401
except ImportError:
    SYSTEM = "/usr/bin/python3"
    has_numpy = [SYSTEM, "-c", "import numpy"]
    if sys.executable == SYSTEM or not os.path.exists(SYSTEM) or subprocess.run(
            has_numpy, stderr=subprocess.DEVNULL).returncode != 0:
        sys.exit(77)
    os.execv(SYSTEM, [SYSTEM, *sys.argv])

WINNOW, MAKE_TRACE = sys.argv[1:3]
# As TensorRT-LLM's documentation has it, and as a web page left it.
DSA = "sparse_attention_config:\n  algorithm: dsa\n  index_topk: 64\n"
FLAT = DSA.replace("  ", "")


class MakeTrace(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.directory = pathlib.Path(self.temporary.name)

    def make(self, name, *arguments, code=0):
        path = self.directory / f"{name}.safetensors"
        done = subprocess.run([sys.executable, MAKE_TRACE, path, *arguments], capture_output=True,
                              text=True)
        self.assertEqual(done.returncode, code, done.stderr)
        return path

    def run_on(self, trace, *configs):
        files = []
        for number, text in enumerate(configs):
            files.append(self.directory / f"{number}.yaml")
            files[-1].write_text(text)
        done = subprocess.run([WINNOW, "run", *files, "--trace", trace, "--json", "--oracle"],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def check(self, trace):
        result = self.run_on(trace, DSA, FLAT)
        self.assertTrue(result["check"]["pass"])
        _, dsa, flat = result["methods"]
        self.assertLess(dsa["generated_rows"]["retained_mass"]["mean"], 1)
        self.assertEqual(dsa["generated_rows"], flat["generated_rows"])
        oracle = dsa["oracle"]["generated_rows"]
        self.assertEqual(oracle["tokens"], 64)
        self.assertGreater(oracle["ratio"]["mean"], 0.6)  # the indexer is made to be of use
        self.assertLessEqual(oracle["ratio"]["mean"], 1)
        self.assertTrue(dsa["fact"]["readers"])

    def test_latents(self):
        self.check(self.make("mla", "--form", "mla", "--heads", "4", "--tokens", "112",
                             "--generated", "8"))

    def test_groups(self):
        self.check(self.make("gqa", "--indexer-heads", "64", "--tokens", "112", "--heads", "6",
                             "--kv-heads", "3", "--head-dim", "40", "--layers", "2", "9"))

    def test_other_dtypes(self):
        for dtype in ("float32", "float16"):
            trace = self.make(dtype, "--dtype", dtype, "--tokens", "40", "--generated", "4",
                              "--indexer-heads", "0", "--v-head-dim", "24", "--needle", "0", "0")
            result = self.run_on(trace, "sparse_attention_config:\n  algorithm: dense\n")
            self.assertTrue(result["check"]["pass"])

    def test_same_seed_same_bytes(self):
        arguments = ("--tokens", "40", "--head-dim", "32")
        one, same = self.make("one", *arguments), self.make("same", *arguments)
        other = self.make("other", *arguments, "--seed", "2")
        self.assertEqual(one.read_bytes(), same.read_bytes())
        self.assertNotEqual(one.read_bytes(), other.read_bytes())

    def test_refusals(self):
        self.make("a", "--heads", "5", "--kv-heads", "2", code=2)
        self.make("a", "--form", "mla", "--v-head-dim", "600", code=2)
        self.make("a", "--needle", "30", "400", code=2)
        self.make("a", "--head-dim", "16", code=2)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v"])
