"""Labels that come later: added once, corrected, joined with what was asked, or refused with counts."""

from __future__ import annotations

import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from brookside_mlops.bundle import BundleInfo
from brookside_mlops.cli import app
from brookside_mlops.endpoints.protocol import Deployment
from brookside_mlops.endpoints.samples import Kept, Sampler
from brookside_mlops.endpoints.state import EndpointState
from brookside_mlops.errors import InputError
from brookside_mlops.fresh_data import add_labels, fresh_data, logged_rows, read_samples, write_fresh_data
from brookside_mlops.labels import Label, LabelStore
from brookside_mlops.profiles import Profile
from brookside_mlops.reference import Reference, write_reference
from brookside_mlops.scratch import scratch_bundle

NAME = "cost-dev"
NOTHING = Profile(rows=0, features={})


def endpoint_with(place: Path, asked: list[Kept], reference: bool = True) -> EndpointState:
    """Return an endpoint of a graph that adds 1 to `weeks`, which has been asked and is stopped."""
    bundle = scratch_bundle(place / "bundle", 1.0)
    info = BundleInfo.model_validate_json((bundle / "bundle.json").read_text())
    if reference:
        known = Reference(
            sha256=info.sha256, target="cost", time="sent", keys=("idea",), features=NOTHING, answers=NOTHING
        )
        write_reference(bundle, known)
    state = EndpointState(place, NAME)
    state.create()
    state.add(Deployment(name="blue", model_name="cost", version=1, sha256=info.sha256), bundle)
    with Sampler(info, state.samples / "blue") as sampler:
        for one in asked:
            sampler.add(one)
    return state


def asked(request: str, *weeks: float | None, keys: list[str] | None = None, at: float | None = None) -> Kept:
    """Return a kept request for some values of `weeks`, with keys of the caller's where they are given."""
    table = {"columns": ["weeks"], "index": keys or list(range(len(weeks))), "data": [[one] for one in weeks]}
    answers = [None if one is None else one + 1 for one in weeks]
    body = json.dumps({"input_data": table}).encode()
    return Kept(time.time() if at is None else at, {"weeks": list(weeks)}, answers, request, body)


def csv(place: Path, *lines: str) -> Path:
    path = place / "labels.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.sampled_from(["yes", "no"])), max_size=5
        ),
        max_size=6,
    )
)
def test_newest_label_counts_and_all_are_kept(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str, int, str]]]
) -> None:
    store = LabelStore(tmp_path_factory.mktemp("labels"))
    current: dict[tuple[str, int], str] = {}
    history: dict[tuple[str, int], list[str]] = {}
    for batch in batches:
        added = store.add([Label(*one) for one in batch])
        assert added.new + added.corrected + added.same == len(batch)
        for request, row, value in batch:
            if current.get((request, row)) != value:
                current[request, row] = value
                history.setdefault((request, row), []).append(value)
    assert store.current() == current
    assert {place: [one[0] for one in store.history(*place)] for place in history} == history
    again = store.add([Label(*place, value) for place, value in current.items()])
    assert (again.new, again.corrected) == (0, 0)


def test_a_batch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.add([Label("a", 0, "yes")])

    def broken():  # type: ignore[no-untyped-def]
        yield Label("b", 0, "yes")
        raise RuntimeError("the file ends here")

    with pytest.raises(RuntimeError):
        store.add(broken())
    assert store.current() == {("a", 0): "yes"}


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    def add(writer: int) -> int:
        return LabelStore(tmp_path).add([Label(f"w{writer}", row, "yes") for row in range(200)]).new

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(add, range(4))) == [200] * 4
    assert len(LabelStore(tmp_path).current()) == 800


def test_labels_cannot_be_changed_in_place(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.add([Label("a", 0, "yes")])
    with sqlite3.connect(store.path) as database:
        for wish in ("update label set value = 'no'", "delete from label"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                database.execute(wish)
    database.close()


def test_labels_join_by_request_and_row_or_by_key(tmp_path: Path) -> None:
    endpoint_with(
        tmp_path, [asked("007", 1, 2), asked("1e5", 5), asked("c", 8, 9, keys=["i8", "i9"]), asked("d", 3)]
    )
    first = csv(tmp_path, "x-ms-request-id,row,cost", "007,0,1.5", "007,1,2.5", "1e5,0,6")
    assert add_labels(tmp_path, NAME, first).new == 3
    assert add_labels(tmp_path, NAME, first).same == 3
    assert add_labels(tmp_path, NAME, csv(tmp_path, "idea,label", "i9,10", "i8,9.0")).new == 2
    corrected = add_labels(tmp_path, NAME, csv(tmp_path, "request,cost", "1e5,7"))
    assert (corrected.new, corrected.corrected) == (0, 1)
    table = fresh_data(tmp_path, NAME)
    assert table.schema.names == ["request.id", "request.row", "idea", "sent", "weeks", "cost"]
    found = dict(zip(table["idea"].to_pylist(), table["cost"].to_pylist(), strict=True))
    assert found == {"007:0": 1.5, "007:1": 2.5, "1e5:0": 7.0, "i8": 9.0, "i9": 10.0}
    rows = logged_rows(tmp_path, NAME)
    assert len(rows) == 6 and rows["label"].null_count == 1
    assert [value for value, _, _ in LabelStore(tmp_path / "endpoints" / NAME).history("1e5")] == [
        "6.0",
        "7.0",
    ]


def test_what_has_no_row_is_refused_with_counts_and_nothing_is_added(tmp_path: Path) -> None:
    state = endpoint_with(
        tmp_path, [asked("a", 1), asked("b", 2), asked("b", 3), asked("c", 4), asked("c", 4)]
    )
    lines = ("request,row,cost", "a,0,2", "z,0,1", "z,1,1", "b,0,5", "c,0,n.a.", "a,7,1", "a,0,3", "c,0,")
    with pytest.raises(InputError) as refused:
        add_labels(tmp_path, NAME, csv(tmp_path, *lines))
    said = str(refused.value)
    for part in (
        "of 8 labels 1 have a row",
        "3 of requests that are not kept (z row 0: 1, z row 1: 1, a row 7: 1)",
        "1 of ids or keys that name several rows (b row 0: 5)",
        "1 that the model cannot answer (c row 0: n.a.)",
        "keeps a share of its requests: sample_share of settings.ini",
        "1 that contradict another label",
        "Nothing was added",
    ):
        assert part in said
    assert not LabelStore(state.folder).current()
    added = add_labels(tmp_path, NAME, csv(tmp_path, *lines), skip_unmatched=True)
    assert added.new == 1 and sum(added.skipped.values()) == 7
    empty = add_labels(tmp_path, NAME, csv(tmp_path, "request,cost", "c,", "a,2"))
    assert (empty.new, empty.same, empty.skipped) == (0, 1, {"without a label": 1})


def test_a_request_that_was_sent_again_is_one_row(tmp_path: Path) -> None:
    endpoint_with(tmp_path, [asked("a", 1), asked("a", 1)])
    assert add_labels(tmp_path, NAME, csv(tmp_path, "request,cost", "a,2")).new == 1
    assert fresh_data(tmp_path, NAME)["cost"].to_pylist() == [2.0]


def test_an_index_that_counts_rows_is_no_key(tmp_path: Path) -> None:
    endpoint_with(tmp_path, [asked("a", 1, 2), asked("b", 3, 4)])
    assert read_samples(tmp_path, NAME)["request.key"].null_count == 4
    with pytest.raises(InputError, match="2 of requests that are not kept"):
        add_labels(tmp_path, NAME, csv(tmp_path, "idea,cost", "0,1", "1,2"))


def test_tables_that_name_no_rows_or_no_labels_are_refused(tmp_path: Path) -> None:
    endpoint_with(tmp_path, [asked("a", 1)])
    with pytest.raises(
        InputError, match="no column with the id of a request, or a key: request or request_id"
    ):
        add_labels(tmp_path, NAME, csv(tmp_path, "id,cost", "a,1"))
    with pytest.raises(InputError, match="no column with labels: cost or label would be right"):
        add_labels(tmp_path, NAME, csv(tmp_path, "request,price", "a,1"))
    with pytest.raises(InputError, match="no endpoint 'other-dev'"):
        add_labels(tmp_path, "other-dev", csv(tmp_path, "request,cost", "a,1"))


def test_window_holds_what_was_asked_in_it(tmp_path: Path) -> None:
    from datetime import UTC, datetime, timedelta

    now = time.time()
    endpoint_with(tmp_path, [asked("old", 1, at=now - 86_400 * 9), asked("new", 2, at=now - 60)])
    since = datetime.now(UTC) - timedelta(days=7)
    assert read_samples(tmp_path, NAME, since)["request.id"].to_pylist() == ["new"]
    assert read_samples(tmp_path, NAME, None, since)["request.id"].to_pylist() == ["old"]
    assert read_samples(tmp_path, NAME)["request.id"].to_pylist() == ["old", "new"]


def test_samples_from_before_ids_have_rows_and_no_labels(tmp_path: Path) -> None:
    state = endpoint_with(tmp_path, [asked("a", 1)])
    (path,) = state.samples.glob("*/*.parquet")
    old = pq.read_table(path).drop_columns(["request.id", "request.row", "request.key"])
    pq.write_table(old.rename_columns(["time", *old.schema.names[1:]]), path)
    rows = logged_rows(tmp_path, NAME)
    assert rows["weeks"].to_pylist() == [1.0] and rows["label"].null_count == 1
    assert not len(fresh_data(tmp_path, NAME))


def test_version_from_before_profiles_takes_labels_and_says_why_there_is_no_fresh_data(
    tmp_path: Path,
) -> None:
    endpoint_with(tmp_path, [asked("a", 1)], reference=False)
    assert add_labels(tmp_path, NAME, csv(tmp_path, "request,label", "a,2")).new == 1
    with pytest.raises(InputError, match="names no target: register and deploy it again"):
        fresh_data(tmp_path, NAME)


def test_fresh_data_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    endpoint_with(tmp_path, [asked("a", 1)])
    add_labels(tmp_path, NAME, csv(tmp_path, "request,cost", "a,2"))
    path = tmp_path / "fresh.parquet"
    assert write_fresh_data(tmp_path, NAME, path) == 1
    assert pq.read_table(path).equals(fresh_data(tmp_path, NAME))
    with pytest.raises(InputError):
        write_fresh_data(tmp_path, "other-dev", path)
    assert len(pq.read_table(path)) == 1 and not list(tmp_path.glob(".fresh*"))


def test_command_adds_exports_and_explains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    endpoint_with(tmp_path / ".brookside", [asked("a", 1), asked("b", 2)])
    csv(tmp_path, "request,cost", "a,2.5", "b,3.5")

    def call(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["labels", *words])
        return result.exit_code, result.output

    assert call("add", "labels.csv", "--endpoint", NAME) == (
        0,
        f"{NAME}: 2 new labels, 0 corrected, 0 there already\n",
    )
    code, output = call("add", "labels.csv", "--usecase", "cost", "--json")
    assert code == 0 and json.loads(output) == {
        "endpoint": NAME,
        "new": 0,
        "corrected": 0,
        "same": 2,
        "skipped": {},
    }
    code, output = call("export", "fresh.parquet", "--endpoint", NAME)
    assert code == 0 and len(pq.read_table(tmp_path / "fresh.parquet")) == 2
    assert call("add", "labels.csv")[0] == 2 and call("add", "labels.csv", "--endpoint", "x-dev")[0] == 2
    assert call("export", "fresh.csv", "--endpoint", NAME)[0] == 2
