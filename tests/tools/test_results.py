#!/usr/bin/env python3
"""tools/results.py over a small made-up trace, written here so that nothing but Python is needed.

usage: test_results.py WINNOW RESULTS
"""
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unittest

WINNOW, RESULTS = sys.argv[1:3]
TOKENS, CONTEXT = 288, 280


def write_trace(path, indexer):
    shapes = {"q": (4, 16), "k": (2, 16), "v": (2, 16)}
    if indexer:
        shapes |= {"indexer.q": (2, 64), "indexer.k": (64,), "indexer.weights": (2,)}
    header = {"__metadata__": {"format": "winnow.trace/1", "softmax_scale": "0.25",
                               "context_length": str(CONTEXT), "model": "made up"}}
    data, generator = b"", random.Random(1)
    for name, shape in sorted(shapes.items(), key=lambda item: item[0] not in ("q", "k", "v")):
        count = TOKENS
        for extent in shape:
            count *= extent
        values = struct.pack(f"<{count}f", *(generator.gauss(0, 1) for _ in range(count)))
        dtype = "F32"
        if name in ("indexer.q", "indexer.k"):  # bfloat16: the upper halves
            values = b"".join(values[i + 2:i + 4] for i in range(0, len(values), 4))
            dtype = "BF16"
        header[f"layers.3.{name}"] = {"dtype": dtype, "shape": [TOKENS, *shape],
                                      "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


class Results(unittest.TestCase):
    def page(self, indexer):
        with tempfile.TemporaryDirectory() as name:
            directory = pathlib.Path(name)
            trace = directory / "small.safetensors"
            write_trace(trace, indexer)
            done = subprocess.run([sys.executable, RESULTS, "--winnow", WINNOW, "--out",
                                   directory / "pages", trace], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            text = (directory / "pages" / "small.md").read_text()
            self.assertNotIn(name, text)  # no paths of this machine
            return text

    def test_tables(self):
        text = self.page(indexer=True)
        for word in ("# small", "- date: 20", "- commit: ", "- machine: ", "## rocket", "## dsa",
                     "| 256 | 16 |", "| bf16 | 64 |", "| fp8 | 128 |", "The prompt's own tokens:"):
            self.assertIn(word, text)
        rows = [line for line in text.split("## dsa")[1].splitlines() if line[:1] == "|"]
        widths = {line.count("|") for line in rows}
        self.assertEqual(len(widths), 2)  # the two tables' rows are as wide as their heads

    def test_no_indexer(self):
        self.assertIn("carries no indexer", self.page(indexer=False))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v"])
