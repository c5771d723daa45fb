"""A worker: frames in, frames out, and an end with its parent."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from brookside_mlops.bundle import Bundle
from brookside_mlops.endpoints.worker import ANSWER, REQUEST, answer
from brookside_mlops.scratch import scratch_bundle as adding


def test_worker_answers_frames_and_ends_when_its_parent_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    command = [
        sys.executable,
        "-m",
        "brookside_mlops.endpoints.worker",
        str(adding(tmp_path / "b", 1)),
        str(path),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        assert path.stat().st_mode & 0o077 == 0

        async def ask() -> tuple[int, object]:
            reader, writer = await asyncio.open_unix_connection(path)
            body = b'[{"weeks": 2}]'
            writer.write(REQUEST.pack(len(body)) + body)
            status, length = ANSWER.unpack(await reader.readexactly(ANSWER.size))
            content = json.loads(await reader.readexactly(length))
            writer.close()
            return status, content

        assert asyncio.run(ask()) == (200, [3.0])
        assert process.stdin
        process.stdin.close()
        assert process.wait(60) == 0


def test_model_that_fails_says_so_and_nothing_of_its_insides(tmp_path: Path) -> None:
    bundle = Bundle.open(adding(tmp_path / "b", 1))
    assert answer(bundle, b'[{"weeks": null}]')[0] == 200
    bundle.session = None  # a graph that is gone
    status, body = answer(bundle, b'[{"weeks": 1}]')
    assert status == 500 and json.loads(body)["error"]["code"] == "model_failed"
