"""A worker: frames in, frames out, samples, and an end with its parent."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from brookside_mlops.bundle import Bundle
from brookside_mlops.endpoints.worker import ANSWER, MAGIC, READY, REQUEST, answer, summed
from brookside_mlops.scratch import scratch_bundle


def ask(connection: socket.socket, body: bytes, keep: bytes = b"") -> tuple[int, int, float, bytes]:
    connection.sendall(REQUEST.pack(len(body), len(keep)) + keep + body)
    return reply(connection)


def reply(connection: socket.socket) -> tuple[int, int, float, bytes]:
    with connection.makefile("rb", buffering=0) as stream:
        magic, status, length, rows, total, _, _, words = ANSWER.unpack(stream.read(ANSWER.size))
        assert magic == MAGIC
        content = b""
        while len(content) < words + length:
            content += stream.read(words + length - len(content))
    return status, rows, total, content[words:]


def test_worker_answers_frames_keeps_samples_and_ends_when_its_parent_lets_go(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    bundle = scratch_bundle(tmp_path / "b", 1)
    words = [str(bundle), str(theirs.fileno()), str(os.getpid()), str(tmp_path / "samples"), "3"]
    command = [sys.executable, "-m", "brookside_mlops.endpoints.worker", *words]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        assert reply(ours)[0] == READY
        assert ask(ours, b'[{"weeks": 2}]', keep=b"call 7") == (200, 1, 3.0, b"[3.0]")
        keyed = b'{"input_data": {"columns": ["weeks"], "index": ["k1", "k2"], "data": [[3], [4]]}}'
        assert ask(ours, keyed, keep=b"c")[1] == 2
        assert ask(ours, b'[{"weeks": 5}]')[3] == b"[6.0]"
        ours.sendall(2 * (REQUEST.pack(14, 0) + b'[{"weeks": 7}]'))  # the second before the first is answered
        assert [reply(ours)[3], reply(ours)[3]] == [b"[8.0]", b"[8.0]"]
        status, _, _, body = ask(ours, json.dumps([{"weeks": 1}] * 4).encode())
        assert status == 413 and json.loads(body)["error"]["code"] == "too_many_rows"
        ours.close()
        assert process.wait(60) == 0
    (file,) = (tmp_path / "samples").glob("*.parquet")
    assert file.stat().st_mode & 0o077 == 0
    kept = pq.read_table(file)
    assert kept["weeks"].to_pylist() == [2.0, 3.0, 4.0]
    assert kept["prediction.value"].to_pylist() == [3.0, 4.0, 5.0]
    assert kept["request.id"].to_pylist() == ["call 7", "c", "c"]
    assert kept["request.row"].to_pylist() == [0, 0, 1]
    assert kept["request.key"].to_pylist() == [None, "k1", "k2"]


def test_worker_without_a_bundle_says_so_in_a_line(tmp_path: Path) -> None:
    words = [str(tmp_path), "0", str(os.getpid()), str(tmp_path), "1"]
    command = [sys.executable, "-m", "brookside_mlops.endpoints.worker", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "is not a bundle" in ended.stderr and "Traceback" not in ended.stderr


def test_model_that_fails_says_so_and_nothing_of_its_insides(tmp_path: Path) -> None:
    bundle = Bundle.open(scratch_bundle(tmp_path / "b", 1))
    assert answer(bundle, b'[{"weeks": null}]').status == 200
    bundle.session = None  # a graph that is gone
    failed = answer(bundle, b'[{"weeks": 1}]')
    assert failed.status == 500 and json.loads(failed.body)["error"]["code"] == "model_failed"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([1.0, 2.0, None], (3.0, 5.0, {})),
        ([{"cluster": 1}, {"cluster": 0}, {"cluster": 1}], (0, 0, {"1": 2, "0": 1})),
        ([{"class": "a", "probability": 0.5, "score": 25.0}], (25.0, 625.0, {"a": 1})),
        ([], (0, 0, {})),
    ],
)
def test_predictions_are_summed(answers: list[object], expected: tuple[float, float, dict[str, int]]) -> None:
    assert summed(answers) == expected
