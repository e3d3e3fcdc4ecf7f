#!/usr/bin/env python3
"""The subcommands list, describe, check, doctor, bench and validate as a user meets them.

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

    def test_lists_and_maps(self):
        self.assertIn("layer_roles: list of string", winnow("describe", "dsa")[0])
        roles = json.loads(winnow("describe", "dsa", "--json-schema")[0])["properties"]["layer_roles"]
        self.assertEqual((roles["type"], roles["items"]["type"]), ("array", "string"))
        self.assertIn("coefficients: mapping of numbers", winnow("describe", "skip_softmax")[0])
        schema = json.loads(winnow("describe", "skip_softmax", "--json-schema")[0])
        self.assertEqual(schema["properties"]["coefficients"]["type"], "object")

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


class Bench(unittest.TestCase):
    """That it works and says what it does; figures are not what is tested."""

    def bench(self, *arguments):
        return json.loads(winnow("bench", "--quick", "--json", "--threads", "2", *arguments)[0])

    def test_a_row_for_each_op(self):
        report = self.bench()
        ops = json.loads(winnow("doctor", "--json")[0])["ops"]
        self.assertEqual([row["name"] for row in report["rows"]],
                         [line.split()[0].rstrip(":") for line in ops])
        for row in report["rows"]:
            self.assertTrue(row["supported"], row)
            self.assertGreater(row["median_ms"], 0)
            self.assertLessEqual(row["spread"][0], row["median_ms"])
            self.assertLessEqual(row["median_ms"], row["spread"][1])
            self.assertIn(row["roof"], report["roofs"])
        self.assertEqual(report["machine"]["threads"], 2)
        self.assertTrue(report["commit"] and report["date"])

    def test_shape(self):
        row, = self.bench("--op", "generation", "--variant", "ref", "--shape",
                          "length=77,heads=6,kv_heads=2,head_dim=40,page=7,dtype=int8")["rows"]
        self.assertEqual((row["variant"], row["ratio_ref"]), ("ref", None))
        row, = self.bench("--op", "context", "--shape", "length=256,cold=50")["rows"]
        self.assertGreater(row["tiles_skipped"], 0)
        row, = self.bench("--op", "mla", "--shape", "length=99,selected=20,dtype=float8_e4m3",
                          "--samples", "4")["rows"]
        self.assertEqual(row["samples"], 4)

    def test_every_variant(self):
        rows = self.bench("--op", "topk", "--variant", "all")["rows"]
        self.assertEqual(len({row["variant"] for row in rows}), len(rows))

    def test_standard(self):
        rows = self.bench("standard", "--match", "32/32")["rows"]
        self.assertEqual([row["ratio_base"] is None for row in rows], [True, False, False])
        out, _ = winnow("bench", "--quick", "standard", "--match", "top", "--markdown")
        self.assertIn("| top 64 of 1024 |", out)

    def test_typos(self):
        _, err = winnow("bench", "--op", "generatoin", code=2)
        self.assertIn("generation", err)
        _, err = winnow("bench", "--op", "topk", "--shape", "lenght=3", code=2)
        self.assertIn("rows=1,n=128k,k=2048", err)
        _, err = winnow("bench", "--op", "topk", "--shape", "n=many", code=2)
        self.assertIn("number", err)
        _, err = winnow("bench", "--op", "topk", "--shape", "k=0", code=2)
        self.assertIn("from 1", err)
        _, err = winnow("bench", "--op", "generation", "--shape", "dtype=int64", code=2)
        self.assertIn("bfloat16", err)
        _, err = winnow("bench", "--variant", "avx3", code=2)
        self.assertIn("ref", err)
        winnow("bench", "--shape", "n=3", code=2)
        winnow("bench", "standart", code=2)
        winnow("bench", "standard", "--match", "nothing like it", code=2)
        winnow("bench", "--break-even", code=2)
        winnow("bench", "--steps", "--lengths", "4k,,8k", code=2)

    def test_shape_that_cannot_be(self):
        _, err = winnow("bench", "--quick", "--op", "generation", "--shape", "heads=5,kv_heads=2",
                        code=3)
        self.assertIn("multiple", err)

    def test_steps(self):
        report = self.bench("--steps", "--lengths", "128,300", "--shape",
                            "heads=4,kv_heads=2,head_dim=64")
        methods = [row["method"] for row in report["steps"]]
        self.assertEqual(methods[:2], ["dense", "rocket"])
        self.assertEqual(methods[:len(methods) // 2], methods[len(methods) // 2:])
        for row in report["steps"]:
            self.assertGreaterEqual(row["total_ms"], row["attend_ms"] / 2)
            self.assertEqual(row["below_break_even"], row["ratio_dense"] < 1)

    def test_break_even(self):
        path = config("sparse_attention_config:\n  algorithm: window\n  window_size: 32\n")
        rows = self.bench("--break-even", path, "--longest", "1024", "--shape",
                          "heads=4,kv_heads=2,head_dim=64")["break_even"]
        self.assertEqual([row["batch"] for row in rows], [1, 4, 16])


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
