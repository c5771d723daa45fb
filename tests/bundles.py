"""Bundles that answer wrongly, slowly or not at all, each a real ONNX graph over one column, `weeks`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from brookside_mlops.bundle import BundleColumn, BundleInfo
from brookside_mlops.files import sha256, write_json


def write(folder: Path, nodes: Sequence[Any], constants: dict[str, np.ndarray[Any, Any]]) -> Path:
    """Write a bundle whose graph makes `value` of `weeks`, both [rows, 1]."""
    folder.mkdir(parents=True)
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("weeks", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    columns = (BundleColumn(name="weeks", kind="number"),)
    digest = sha256(folder / "model.onnx")
    info = BundleInfo(usecase="cost", task="regression", columns=columns, sha256=digest)
    (folder / "bundle.json").write_text(info.model_dump_json(), encoding="utf-8")
    example = {"columns": ["weeks"], "index": [0, 1], "data": [[1], [2]]}
    write_json(folder / "input_example.json", {"input_data": example})
    return folder


def failing(folder: Path, below: int = 8) -> Path:
    """Write a bundle that answers `weeks` up to `below`, and fails from there on: it looks the value up in a table that is too short.

    A gap counts as 0.
    """
    nodes = [
        helper.make_node("IsNaN", ["weeks"], ["gap"]),
        helper.make_node("Where", ["gap", "zero", "weeks"], ["number"]),
        helper.make_node("Cast", ["number"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "place"], ["value"], axis=0),
    ]
    table = np.arange(below, dtype=np.float32)
    return write(folder, nodes, {"zero": np.zeros(1, np.float32), "table": table})


def slow(folder: Path, rounds: int) -> Path:
    """Write a bundle that answers `weeks`, after so many products of two matrices of 256 by 256."""
    size = 256
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("MatMul", ["held", "weights"], ["next"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held", TensorProto.FLOAT, [size, size]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [size, size]),
        ],
    )
    nodes = [
        helper.make_node("IsNaN", ["weeks"], ["gap"]),
        helper.make_node("Where", ["gap", "no weeks", "weeks"], ["number"]),
        helper.make_node("ReduceSum", ["number"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "nothing"], ["none"]),
        helper.make_node("Expand", ["none", "shape"], ["first"]),
        helper.make_node("Loop", ["rounds", "yes", "first"], ["last"], body=body),
        helper.make_node("ReduceMax", ["last"], ["zero"], keepdims=0),
        helper.make_node("Add", ["weeks", "zero"], ["value"]),
    ]
    constants = {
        "no weeks": np.zeros(1, np.float32),
        "nothing": np.array(0, np.float32),
        "shape": np.array([size, size], np.int64),
        "rounds": np.array(rounds, np.int64),
        "yes": np.array(True),
        "weights": np.ones((size, size), np.float32),
    }
    return write(folder, nodes, constants)


def unsteady(folder: Path) -> Path:
    """Write a bundle whose answers are never the same twice: `weeks` plus noise."""
    nodes = [
        helper.make_node("RandomNormalLike", ["weeks"], ["noise"]),
        helper.make_node("Add", ["weeks", "noise"], ["value"]),
    ]
    return write(folder, nodes, {})
