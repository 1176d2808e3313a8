"""MMLU and HellaSwag as lm-eval defines them, on the hub's data or on local files.

This module writes a folder of YAML files. Each *includes* lm-eval's definition and changes only
where the rows come from, so `lm_eval --include_path FOLDER --tasks NAME` reads the same task. The
name of a data file contains a hash of its content, because `datasets` would otherwise return
cached rows for a changed file of the same name and time.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ila_core.data.rows import read_rows
from ila_core.errors import UserError, unknown_name

if TYPE_CHECKING:
    from lm_eval.api.task import Task

LETTERS = "ABCD"
MMLU, HELLASWAG = "ila_mmlu", "ila_hellaswag"
_SPLITS = ("dev", "test")
_Fields = dict[str, object]
"""The fields of a row, or of a task definition."""


def definitions() -> Path:
    """Return the folder of lm-eval's task definitions; lm-eval itself is not imported."""
    found = find_spec("lm_eval")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "tasks"


@cache
def subjects() -> tuple[str, ...]:
    """Return the names of MMLU's 57 subjects in lm-eval."""
    names = (definitions() / "mmlu" / "default").glob("mmlu_*.yaml")
    return tuple(sorted(p.stem.removeprefix("mmlu_") for p in names))


def read_mmlu(folder: Path, shots: int) -> dict[str, dict[str, list[_Fields]]]:
    """Read `dev/<subject>_dev.csv` and `test/<subject>_test.csv`: subject to split to rows.

    Raises:
        UserError: when a file or row is not in MMLU's format; the message has file and line.
    """
    found: dict[str, dict[str, list[_Fields]]] = {}
    for path in sorted((folder / "test").glob("*_test.csv")):
        subject = path.name.removesuffix("_test.csv")
        if subject not in subjects():
            raise unknown_name(f"MMLU subject ({path})", subject, subjects())
        found[subject] = {
            split: _read_csv(folder / split / f"{subject}_{split}.csv") for split in _SPLITS
        }
        examples = found[subject]["dev"]
        if len(examples) < shots:
            raise UserError(
                f"{folder}/dev/{subject}_dev.csv has {len(examples)} examples; {shots} shots need "
                "as many: lower evaluate.mmlu.shots, or complete the file"
            )
    if not found:
        raise UserError(
            f"{folder} has no test/*_test.csv: give the folder that holds MMLU's dev and test "
            "folders, or null to read cais/mmlu from the hub (evaluate.mmlu.path)"
        )
    return found


def _read_csv(path: Path) -> list[_Fields]:
    if not path.is_file():
        raise UserError(f"{path} is missing: MMLU has a dev and a test file for each subject")
    rows: list[_Fields] = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if len(row) != 6:
                    raise UserError(
                        f"{where}: {len(row)} columns where question, A, B, C, D and the answer's "
                        "letter are 6: is the file cut off?"
                    )
                question, *choices, answer = row
                if answer.strip() not in tuple(LETTERS):
                    raise UserError(f"{where}: answer {answer!r}; allowed are A, B, C and D")
                rows.append(
                    {
                        "question": question,
                        "choices": choices,
                        "answer": LETTERS.index(answer.strip()),
                    }
                )
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}: is it cut off?") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8: {error}") from error
    if not rows:
        raise UserError(f"{path} is empty")
    return rows


def read_hellaswag(path: Path) -> list[_Fields]:
    """Read HellaSwag's rows from JSON Lines.

    Raises:
        UserError: when a line is not such a row, or an `ind` occurs twice.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is no file: give HellaSwag's validation rows as JSON Lines, or null to read "
            "Rowan/hellaswag from the hub (evaluate.hellaswag.path)"
        )
    rows: list[_Fields] = []
    seen: dict[str, int] = {}
    for row in read_rows(path):
        rows.append(_hellaswag_row(row.fields, f"{path}, row {row.number}"))
        ind = row.fields.get("ind")
        if ind is not None and seen.setdefault(str(ind), row.number) != row.number:
            raise row.wrong("ind", f"{ind} is that of row {seen[str(ind)]} too")
    if not rows:
        raise UserError(f"{path} is empty")
    return rows


def _hellaswag_row(row: _Fields, where: str) -> _Fields:
    if not {"ctx", "ctx_a"} & row.keys():
        raise UserError(f"{where}: neither `ctx` nor `ctx_a` and `ctx_b`")
    endings, label = row.get("endings"), str(row.get("label", ""))
    if not isinstance(endings, list) or len(endings) != 4:
        raise UserError(f"{where}: `endings` must be 4 texts")
    if label not in ("0", "1", "2", "3"):
        raise UserError(f"{where}: label {label!r}; allowed are 0 to 3")
    return {
        "activity_label": str(row.get("activity_label", "")),
        # lm-eval joins the two; a file that has them joined already loses nothing.
        "ctx_a": str(row["ctx_a"] if "ctx_a" in row else row["ctx"]),
        "ctx_b": str(row.get("ctx_b", "")),
        "endings": [str(e) for e in endings],
        "label": label,
    }


def write_mmlu(
    out: Path,
    shots: int,
    rows: dict[str, dict[str, list[_Fields]]] | None,
    revision: str | None,
) -> None:
    """Write the group `ila_mmlu` and one task for each of its subjects.

    Args:
        out: the folder to write to; it stays there between runs.
        shots: number of examples before each question.
        rows: rows of local files; with `None` the tasks read cais/mmlu at `revision`.
    """
    names = []
    for subject in subjects() if rows is None else rows:
        definition = definitions() / "mmlu" / "default" / f"mmlu_{subject}.yaml"
        names.append(f"{MMLU}_{subject}")
        task: _Fields = {
            "include": str(definition),
            "task": names[-1],
            "tag": None,
            "num_fewshot": shots,
        }
        if rows is None:
            task["dataset_kwargs"] = {"revision": revision}
        else:
            files = {s: _write_rows(out, f"{subject}-{s}", rows[subject][s]) for s in _SPLITS}
            task |= {"dataset_path": "json", "dataset_name": None}
            task["dataset_kwargs"] = {"data_files": files}
        _write_yaml(out / f"{names[-1]}.yaml", task)
    group = {
        "group": MMLU,
        "task": names,
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
        "metadata": {"version": 2},
    }
    _write_yaml(out / f"{MMLU}.yaml", group)


def write_hellaswag(
    out: Path, shots: int, rows: list[_Fields] | None, revision: str | None
) -> None:
    """Write the task `ila_hellaswag`; see `write_mmlu`."""
    task: _Fields = {
        "include": str(definitions() / "hellaswag" / "hellaswag.yaml"),
        "task": HELLASWAG,
        "tag": None,
        "num_fewshot": shots,
    }
    if rows is None:
        task["dataset_kwargs"] = {"revision": revision}
    else:
        files = {"validation": _write_rows(out, "validation", rows)}
        task |= {"dataset_path": "json", "training_split": None}
        task["dataset_kwargs"] = {"data_files": files}
    _write_yaml(out / f"{HELLASWAG}.yaml", task)


def _write_rows(out: Path, name: str, rows: Sequence[_Fields]) -> str:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = out / "data" / f"{name}-{digest}.jsonl"
    _write(path, text)
    return str(path)


def _write_yaml(path: Path, tree: Mapping[str, object]) -> None:
    _write(path, yaml.safe_dump(tree, sort_keys=False))


def _write(path: Path, text: str) -> None:
    """Write the file atomically: two processes may write the same file at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        file.write(text)
    Path(file.name).replace(path)


def load_tasks(folder: Path, name: str) -> dict[str, Task]:
    """Load lm-eval's task object `name`, or all tasks of the group `name`, by name.

    Raises:
        UserError: when the hub does not deliver the data.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return dict(manager.load([name])["tasks"])


def task_versions(tasks: Iterable[Task]) -> list[str]:
    """Return the distinct lm-eval versions of these tasks."""
    return sorted({re.sub(r"\.0$", "", str(task.VERSION)) for task in tasks})
