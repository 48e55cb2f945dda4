"""Whatever is typed: done, or refused in words of ours, and no image is lost."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facepurify.__main__ import main
from facepurify.files import target_of

CROP = cv2.imencode(".png", np.full((112, 112, 3), 90, np.uint8))[1].tobytes()
FILES = {
    "in/crop.png": CROP,
    "in/deeper/crop.png": CROP,
    "in/broken.jpg": CROP[:60],
    "in/text.png": b"no image",
    "model.onnx": b"no model",
}
PLACES = [
    "in",
    "in/deeper",
    "in/crop.png",
    "in/broken.jpg",
    "none",
    "",
    ".",
    "a\nb",
    "\udc80",
    *FILES,
]
OUTPUTS = [
    "out",
    "out.png",
    "out.txt",
    "in",
    "in/crop.png",
    "none/out.png",
    "model.onnx",
    "",
    "\udc80",
]
NUMBERS = ["0", "1", "1", "3", "-1", "99999999999999999999", "nan", "2x2", ""]


def line(command: str, *flags: str, places: int) -> st.SearchStrategy[list[str]]:
    """A command with places, an output and some options, each of them likely or not."""
    option = st.one_of(
        st.sampled_from(
            [["--overwrite"], ["--aligned"], ["--aligned"], *([flag] for flag in flags)]
        ),
        st.tuples(st.sampled_from(["--seed", "--threads"]), st.sampled_from(NUMBERS)),
        st.tuples(st.just("--model"), st.sampled_from(["pin", "ais", "model.onnx", "none"])),
        st.tuples(st.just("--mask"), st.sampled_from(["fixed", "sampled", "threshold"])),
        st.tuples(st.just("--provider"), st.sampled_from(["CPUExecutionProvider", "None"])),
        st.tuples(st.just("--pack"), st.sampled_from(PLACES)),
    )
    return st.builds(
        lambda inputs, output, options: [
            command,
            *inputs,
            "-o",
            output,
            *(word for option in options for word in option),
        ],
        st.lists(st.sampled_from(PLACES), min_size=1, max_size=places),
        st.sampled_from(OUTPUTS),
        st.lists(option, max_size=3),
    )


LINES = st.one_of(
    line("purify", "--resume", "--keep-faceless", places=3),
    line("inspect", places=1),
    st.lists(
        st.sampled_from(["models", "doctor", "verify", "--json", "--help"]) | st.text(max_size=4)
    ),
)


@settings(max_examples=100, deadline=None)
@given(LINES)
def test_any_arguments(line: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, content in FILES.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(content)
        try:
            status = main(line)
        except SystemExit as end:  # by argparse: wrong usage, or help
            status = int(end.code or 0)
        assert status in (0, 1, 2)
        for name, content in FILES.items():
            there = Path(name).read_bytes()
            assert there == content or (
                "--overwrite" in line
                and cv2.imdecode(np.frombuffer(there, np.uint8), cv2.IMREAD_COLOR) is not None
            )
        left = [file for _, _, files in os.walk(".") for file in files]
        assert not [file for file in left if target_of(file)], "half a file is left"
