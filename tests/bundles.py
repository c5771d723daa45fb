"""Bundles of one node, for tests of what serves them."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from brookside_mlops.bundle import BundleColumn, BundleInfo
from brookside_mlops.files import sha256, write_json


def adding(folder: Path, constant: float) -> Path:
    """Write a bundle that answers `weeks` plus a constant, and return its folder."""
    folder.mkdir(parents=True)
    graph = helper.make_graph(
        [helper.make_node("Add", ["weeks", "constant"], ["value"])],
        "adding",
        [helper.make_tensor_value_info("weeks", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor("constant", TensorProto.FLOAT, [1], [constant])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    digest = sha256(folder / "model.onnx")
    columns = (BundleColumn(name="weeks", kind="number"),)
    info = BundleInfo(usecase="cost", task="regression", columns=columns, sha256=digest)
    (folder / "bundle.json").write_text(info.model_dump_json())
    example = {"columns": ["weeks"], "index": [0, 1], "data": [[1], [2]]}
    write_json(folder / "input_example.json", {"input_data": example})
    return folder
