#!/usr/bin/env python3
"""The subcommands list, describe, check, doctor and validate as a user meets them.

usage: test_command_line.py WINNOW BUILT_PLUGINS BROKEN_PLUGINS
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

WINNOW, PLUGINS, BROKEN = sys.argv[1:4]
MODEL = "layers=4,heads=8,kv_heads=2,head_dim=64,max_position=4096"


def winnow(*arguments, code=0, environment=None):
    done = subprocess.run([WINNOW, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=300, env={**os.environ, **(environment or {})})
    if done.returncode != code:
        raise AssertionError(f"winnow {' '.join(arguments)}: exit status {done.returncode}, "
                             f"expected {code}\n{done.stdout}{done.stderr}")
    return done.stdout, done.stderr


def config(text):
    file = tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False)
    with file:
        file.write(text)
    return file.name


class List(unittest.TestCase):
    def test_names_what_is_there(self):
        out, _ = winnow("list", "-p", PLUGINS)
        for algorithm in ("rocket", "skip_softmax", "window"):
            self.assertIn(algorithm, out)

    def test_json(self):
        plugins = json.loads(winnow("list", "-p", PLUGINS, "--json")[0])
        window = [p for p in plugins if p["algorithm"] == "window"][0]
        self.assertEqual(window["devices"], ["cpu"])
        self.assertIsNone(window["problem"])

    def test_finds_the_build_tree_by_itself(self):
        self.assertIn("window", winnow("list")[0])

    def test_runs_no_code(self):
        # A constructor in this plugin writes to address 0.
        out, _ = winnow("list", "-p", str(pathlib.Path(BROKEN) / "crash_at_load"))
        self.assertIn("broken", out)

    def test_problem_is_a_finding(self):
        out, _ = winnow("list", "-p", str(pathlib.Path(BROKEN) / "other_layout"), code=1)
        self.assertIn("cannot be used", out)


class Describe(unittest.TestCase):
    def test_keys(self):
        out, _ = winnow("describe", "window")
        self.assertIn("window_size: int, 1 to 1073741824 tokens; default 1024", out)

    def test_schema(self):
        schema = json.loads(winnow("describe", "rocket", "--json-schema")[0])
        self.assertEqual(schema["properties"]["prompt_budget"]["default"], 2048)
        self.assertIn("float8_e5m2", schema["properties"]["kt_cache_dtype"]["enum"])
        self.assertEqual(schema["required"], ["algorithm"])

    def test_unknown(self):
        _, err = winnow("describe", "windwo", code=3)
        self.assertIn("window", err)


class Check(unittest.TestCase):
    def test_plan_and_memory(self):
        path = config("sparse_attention_config:\n  algorithm: rocket\n")
        out, _ = winnow("check", path, "--model", MODEL)
        self.assertIn("layers 0..3", out)
        self.assertIn("rocket.landmarks", out)
        memory = json.loads(winnow("check", path, "--model", MODEL, "--json")[0])["memory"]
        parts = sum(v for k, v in memory.items() if k not in ("aux", "total"))
        self.assertEqual(parts + sum(memory["aux"].values()), memory["total"])

    def test_capacity_counts(self):
        path = config("sparse_attention_config:\n  algorithm: window\n")
        sizes = [json.loads(winnow("check", path, "--model", MODEL, "--json", "--max-tokens",
                                   tokens)[0])["memory"]["k"] for tokens in ("1024", "2048")]
        self.assertEqual(sizes[1], 2 * sizes[0])

    def test_every_reason(self):
        path = config("sparse_attention_config:\n  algorithm: window\n  window_sise: 3\n"
                      "  sink_tokens: -1\n")
        out, _ = winnow("check", path, "--model", MODEL, code=1)
        self.assertIn(f"{path}:3:", out)
        self.assertIn("window_size", out)
        self.assertIn(f"{path}:4:", out)

    def test_missing(self):
        winnow("check", "/nonexistent.yaml", "--model", MODEL, code=3)
        path = config("sparse_attention_config:\n  algorithm: window\n")
        winnow("check", path, code=2)
        _, err = winnow("check", path, "--model", "layers=3", code=3)
        self.assertIn("head_dim", err)


class Validate(unittest.TestCase):
    PLUGIN = str(pathlib.Path(PLUGINS) / "window.so")

    def test_static_alone(self):
        report = json.loads(winnow("validate", self.PLUGIN, "-t", "static", "-f", "json")[0])
        self.assertEqual(report["failed"], 0)
        self.assertEqual({t["level"] for t in report["tests"]}, {"static"})

    def test_exclude(self):
        out, _ = winnow("validate", self.PLUGIN, "-t", "static", "-x", "no-*")
        self.assertNotIn("no-rpath", out)
        self.assertIn("elf-sane", out)

    def test_junit(self):
        out, _ = winnow("validate", self.PLUGIN, "-t", "static", "-f", "junit")
        suite = xml.etree.ElementTree.fromstring(out)
        self.assertEqual(int(suite.get("tests")), len(suite.findall("testcase")))

    def test_list(self):
        self.assertIn("full-budget-equals-dense", winnow("validate", "--list")[0])

    def test_not_a_plugin(self):
        out, _ = winnow("validate", __file__, "-t", "elf-sane", code=1)
        self.assertIn("not an ELF file", out)
        winnow("validate", "/nonexistent.so", code=3)
        winnow("validate", code=2)
        winnow("validate", self.PLUGIN, "-t", "nonsense", code=2)
        winnow("validate", self.PLUGIN, "-f", "nonsense", code=2)

    def test_truncated_file(self):
        whole = pathlib.Path(self.PLUGIN).read_bytes()
        with tempfile.TemporaryDirectory() as directory:
            for size in (0, 10, 64, 100, 1000, len(whole) // 2, len(whole) - 1):
                path = pathlib.Path(directory) / "cut.so"
                path.write_bytes(whole[:size])
                report = json.loads(winnow("validate", str(path), "-t", "static", "-f", "json",
                                           code=1)[0])
                texts = [t["text"] for t in report["tests"] if t["outcome"] == "failed"]
                self.assertFalse([t for t in texts if "crashed" in t], f"cut at {size}")


class Doctor(unittest.TestCase):
    def test_says_what_matters(self):
        report = json.loads(winnow("doctor", "--json", environment={"WINNOW_KERNELS": "ref"})[0])
        self.assertEqual(report["environment"]["WINNOW_KERNELS"], "ref")
        self.assertTrue(report["ops"])
        self.assertTrue(any("window" in line for line in report["plugins"]))
        self.assertIn("window", winnow("doctor")[0])


class New(unittest.TestCase):
    def test_refuses(self):
        with tempfile.TemporaryDirectory() as directory:
            winnow("new", "Bad-Name", "-d", f"{directory}/a", code=2)
            winnow("new", "good", "-d", directory, code=3)  # there already
            winnow("new", "good", "-d", f"{directory}/b")
            names = sorted(p.name for p in pathlib.Path(f"{directory}/b").iterdir())
            self.assertEqual(names, ["CMakeLists.txt", "README.md", "good.c"])
            for file in pathlib.Path(f"{directory}/b").iterdir():
                self.assertNotIn("@NAME@", file.read_text())


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v"])
