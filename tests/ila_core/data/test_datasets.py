"""Datasets: rows to conversations, the hub beside a local file, and errors that say where."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import ila_core.data
from ila_core import hub
from ila_core.config import DatasetConfig
from ila_core.data import (
    DATASETS,
    Conversation,
    Message,
    content_digest,
    content_hash,
    hub_revision,
    load_dataset,
)
from ila_core.data.formats import Dataset
from ila_core.errors import UserError

ROOT = Path(__file__).parents[3]

REAL_FILES = {
    "lima": ("lima/train.jsonl", 1030),
    "alpaca_gpt4": ("alpaca_gpt4/alpaca_gpt4_1000.json", 1000),
    "dolly": ("human_written/dolly_2400.jsonl", 2400),
}

ROWS = {
    "lima": [{"conversations": ["Hi", "Hello!", "Bye", "See you."], "source": "x"}],
    "no_robots": [
        {
            "prompt": "Hi",
            "messages": [
                {"role": "system", "content": "Be terse."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello!"},
            ],
        }
    ],
    "alpaca_gpt4": [
        {"instruction": "Add", "input": "1 and 2", "output": "3"},
        {"instruction": "Greet", "input": "", "output": "Hi"},
    ],
    "dolly": [{"instruction": "Who?", "context": "Ann is here.", "response": "Ann"}],
    "file": [{"prompt": "Hi", "response": "Hello!"}],
}

HUB_FILES = {
    "lima": "train.jsonl",
    "no_robots": "data/train-00000-of-00001.parquet",
    "alpaca_gpt4": "data/train-00000-of-00001-abc.parquet",
    "dolly": "databricks-dolly-15k.jsonl",
}


def write(path: Path, rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        assert isinstance(rows, list)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        pd = pytest.importorskip("pandas")
        pd.DataFrame(rows).to_parquet(path)
    return path


def load(path: Path, loader: str = "file") -> list[Conversation]:
    return load_dataset(DatasetConfig(name="mine", loader=loader, path=str(path)), None)


def said(conversation: Conversation) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in conversation.messages]


def test_every_dataset_file_is_in_the_table() -> None:
    folder = Path(ila_core.data.__file__).parent
    for path in folder.glob("*.py"):
        module = sys.modules.get(f"ila_core.data.{path.stem}")
        declared = getattr(module, "DATASET", None)
        if declared is None:
            assert "\nDATASET = " not in path.read_text(), f"{path.name} is not in DATASETS"
        else:
            assert DATASETS[path.stem] is declared
    assert all(isinstance(dataset, Dataset) for dataset in DATASETS.values())


@pytest.mark.parametrize("loader", DATASETS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_every_format_of_a_file_gives_the_same(loader: str, suffix: str, tmp_path: Path) -> None:
    reference = load(write(tmp_path / "reference.jsonl", ROWS[loader]), loader)
    assert load(write(tmp_path / f"rows{suffix}", ROWS[loader]), loader) == reference
    assert len(reference) == len(ROWS[loader])


@pytest.mark.parametrize("loader", HUB_FILES)
def test_the_hub_gives_what_a_local_file_gives(
    loader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = load(write(tmp_path / "rows.jsonl", ROWS[loader]), loader)
    snapshot = tmp_path / "snapshot"
    write(snapshot / HUB_FILES[loader], ROWS[loader])
    write(snapshot / "data" / "test-00000-of-00001.parquet", [{"not": "read"}])
    asked = []

    def stand_in(repo: str, **how: object) -> str:
        asked.append((repo, how["revision"], how["repo_type"]))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", stand_in)
    found = load_dataset(DatasetConfig(name="theirs", loader=loader), "abc123")
    assert content_digest(found) == content_digest(local)
    assert asked == [(DATASETS[loader].repo, "abc123", "dataset")]


def test_an_incomplete_download_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DatasetConfig(name="theirs", loader="no_robots")
    monkeypatch.setattr(hub, "fetch", lambda *_, **__: tmp_path)
    with pytest.raises(UserError, match=r"not complete .*: none\)"):
        load_dataset(config, None)
    write(tmp_path / "data" / "train-00000-of-00002.parquet", ROWS["no_robots"])
    with pytest.raises(UserError, match="not complete"):
        load_dataset(config, None)


def test_each_loader_reads_its_fields(tmp_path: Path) -> None:
    def first(loader: str) -> list[tuple[str, str]]:
        return said(load(write(tmp_path / f"{loader}.jsonl", ROWS[loader]), loader)[0])

    assert [role for role, _ in first("lima")] == ["user", "assistant"] * 2
    assert first("no_robots")[0] == ("system", "Be terse.")
    assert first("alpaca_gpt4") == [("user", "Add\n\n1 and 2"), ("assistant", "3")]
    assert first("dolly") == [("user", "Who?\n\nAnn is here."), ("assistant", "Ann")]


def test_a_users_file_may_mix_three_shapes(tmp_path: Path) -> None:
    rows = [*ROWS["file"], *ROWS["alpaca_gpt4"], *ROWS["no_robots"]]
    found = load(write(tmp_path / "mixed.jsonl", rows))
    assert [len(c.messages) for c in found] == [2, 2, 2, 3]
    without_input = write(tmp_path / "short.jsonl", [{"instruction": "a", "output": "b"}])
    assert said(load(without_input)[0]) == [("user", "a"), ("assistant", "b")]


@pytest.mark.parametrize(
    ("loader", "row", "message"),
    [
        ("file", {"text": "a"}, r"row 2: given the fields text; allowed are messages"),
        ("file", {"prompt": "a"}, r"row 2, field 'response': missing; the row has prompt"),
        ("file", {"prompt": "a", "response": None}, r"field 'response': given null; allowed"),
        ("file", {"prompt": 3, "response": "b"}, r"field 'prompt': given int 3; allowed is a text"),
        ("file", {"prompt": "\ud800", "response": "b"}, r"field 'prompt': not valid Unicode"),
        ("file", {"messages": []}, r"field 'messages': given list \[\]"),
        ("file", {"messages": ["a"]}, r"field 'messages.0': given str 'a'; allowed is an object"),
        (
            "file",
            {"messages": [{"role": "bot", "content": "a"}]},
            r"field 'messages.0.role': given str 'bot'; allowed: system, user, assistant",
        ),
        (
            "lima",
            {"conversations": "a"},
            r"field 'conversations': given str 'a'; allowed is a list",
        ),
        ("lima", {"conversations": ["a", 1]}, r"field 'conversations.1': given int 1"),
        ("dolly", {"instruction": "a", "output": "b"}, r"field 'response': missing"),
        ("file", 7, r"row 2: given int 7; allowed is an object"),
    ],
)
def test_a_bad_row_is_named(loader: str, row: object, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [ROWS[loader][0], row])
    with pytest.raises(UserError, match=message) as caught:
        load(path, loader)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b'{"prompt": "a", "response": "b"}\n\n{oops\n', "row 3: not JSON"),
        ("rows.jsonl", b'\xff{"prompt": 1}\n', "row 1: not UTF-8"),
        ("rows.jsonl", b"\n", "has no rows"),
        ("rows.json", b'{"prompt": "a"}', "allowed is one array of objects"),
        ("rows.json", b'{"a": 1}\n{"a": 2}\n', "needs the ending .jsonl"),
        ("rows.parquet", b"no parquet here", "not readable as Parquet"),
        ("rows.csv", b"a,b\n", r"allowed endings are \.jsonl, \.json, \.parquet"),
    ],
)
def test_a_bad_file_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_a_folder_and_an_unknown_loader_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="is a folder"):
        load(tmp_path)
    with pytest.raises(UserError, match="unknown dataset loader 'limma': did you mean 'lima'"):
        load(tmp_path, "limma")
    with pytest.raises(UserError, match="reads a local file only"):
        load_dataset(DatasetConfig(name="mine", loader="file"), None)
    with pytest.raises(UserError, match="reads a local file only"):
        hub_revision(DatasetConfig(name="mine", loader="file"))


def test_a_line_separator_within_a_text_ends_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"prompt": "a\u2028b", "response": "c\x85d"}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8-sig")
    assert said(load(path)[0]) == [("user", "a\u2028b"), ("assistant", "c\x85d")]


def test_identity_sees_one_byte_and_the_order(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i}", "response": "answer"} for i in range(3)]
    path = write(tmp_path / "rows.jsonl", rows)
    digest = content_digest(load(path))
    assert content_digest(load(path)) == digest
    assert content_digest(load(path)[::-1]) != digest
    assert content_digest(load(path)[:2]) != digest
    path.write_bytes(path.read_bytes().replace(b"question 1", b"question I"))
    assert content_digest(load(path)) != digest


def test_a_hash_tells_roles_and_borders_apart() -> None:
    def of(*pairs: tuple[str, str]) -> str:
        return content_hash(Conversation(tuple(Message(*p) for p in pairs)))  # type: ignore[arg-type]

    alike = [
        of(("user", "ab"), ("assistant", "c")),
        of(("user", "a"), ("assistant", "bc")),
        of(("assistant", "ab"), ("user", "c")),
        of(("user", "ab"), ("assistant", "c"), ("user", "")),
    ]
    assert len(set(alike)) == len(alike)


def test_loading_never_imports_torch(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS["file"])
    code = (
        "import sys\n"
        "from ila_core.config import DatasetConfig\n"
        "from ila_core.data import content_digest, load_dataset\n"
        f"config = DatasetConfig(name='a', loader='file', path={str(path)!r})\n"
        "content_digest(load_dataset(config, None))\n"
        "print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


@pytest.mark.real_data
@pytest.mark.parametrize("loader", REAL_FILES)
def test_real_rows_are_counted(real_data: Path, loader: str) -> None:
    name, count = REAL_FILES[loader]
    found = load(real_data / name, loader)
    assert len(found) == count
    ends_on_user = [c for c in found if c.messages[-1].role == "user"]
    assert len(ends_on_user) == (loader == "lima")
