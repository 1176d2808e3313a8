"""Rows to conversations: the shapes that people have, what is left out, ignored or unreadable."""

from __future__ import annotations

from pathlib import Path

import pytest

from ila_core.config import DatasetConfig
from ila_core.errors import UserError
from tests.helpers.datasets import EXCHANGE, MESSAGES, read, said

U, A, S = "user", "assistant", "system"


@pytest.mark.parametrize(
    ("row", "conversation"),
    [
        (EXCHANGE, [(U, "Hi"), (A, "Hello!")]),
        ({"prompt": "Hi", "completion": "Yes"}, [(U, "Hi"), (A, "Yes")]),
        ({"question": "Hi", "answer": "Yes"}, [(U, "Hi"), (A, "Yes")]),
        ({"input": "Hi", "output": "Yes"}, [(U, "Hi"), (A, "Yes")]),
        ({"prompt": "W?", "context": "Ann", "response": "A"}, [(U, "W?\n\nAnn"), (A, "A")]),
        ({"instruction": "Add", "input": None, "output": "3"}, [(U, "Add"), (A, "3")]),
        (
            {"prompt": [{"role": U, "content": "Hi"}], "completion": [{"role": A, "content": "B"}]},
            [(U, "Hi"), (A, "B")],
        ),
        (
            {"instruction": "C", "output": "D", "system": "Brief.", "history": [["A", "B"]]},
            [(S, "Brief."), (U, "A"), (A, "B"), (U, "C"), (A, "D")],
        ),
        (MESSAGES, [(S, "Be terse."), (U, "Hi"), (A, "Hello!")]),
        (
            {"messages": MESSAGES["messages"][1:], "system": "Be terse."},
            [(S, "Be terse."), (U, "Hi"), (A, "Hello!")],
        ),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]},
            [(U, "Hi"), (A, "Yes")],
        ),
        ({"conversations": ["Hi", "Yes"]}, [(U, "Hi"), (A, "Yes")]),
        (
            {"messages": [
                {"role": "developer", "content": "Brief."},
                {"role": U, "content": [{"type": "text", "text": "H"}, "i"]},
                {"role": A, "content": "Yes", "tool_calls": None},
            ], "tools": []},
            [(S, "Brief."), (U, "Hi"), (A, "Yes")],
        ),
    ],
)  # fmt: skip
def test_shapes_are_told_by_their_fields(
    row: object, conversation: list[tuple[str, str]], tmp_path: Path
) -> None:
    found = read(tmp_path, row)
    assert said(next(iter(found))) == conversation
    assert found.counts() == {"given": 1, "dropped": {}, "ignored": {}, "unreadable": 0}


def test_columns_name_what_no_field_name_says(tmp_path: Path) -> None:
    row = {"ask": "Hi", "good": "Yes", "bad": "No", "rules": "Brief."}
    columns = {"user": "ask", "assistant": "good", "system": "rules"}
    found = read(tmp_path, row, columns=columns)
    assert said(next(iter(found))) == [(S, "Brief."), (U, "Hi"), (A, "Yes")]
    assert found.ignored == {"bad": 1}
    with pytest.raises(ValueError, match="columns: assistant not given"):
        DatasetConfig(source="x.jsonl", columns={"user": "ask"})
    with pytest.raises(UserError, match=r"field 'asks': missing; the row has ask"):
        read(tmp_path, row, columns=columns | {"user": "asks"})
    with pytest.raises(UserError, match=r"field 'turns': missing; the row has ask"):
        read(tmp_path, row, columns={"messages": "turns"})


def test_preference_pairs_are_learned_where_that_is_asked_for(tmp_path: Path) -> None:
    pair = {"prompt": "Hi", "chosen": "Yes", "rejected": "No"}
    turns = [{"role": U, "content": "Hi"}, {"role": A, "content": "Yes"}]
    listed = {"chosen": turns, "rejected": turns, "prompt": "Hi"}
    for row in (pair, listed):
        with pytest.raises(UserError, match=r"preference pairs .* `answer: chosen`"):
            read(tmp_path, row)
        assert said(next(iter(read(tmp_path, row, answer="chosen")))) == [(U, "Hi"), (A, "Yes")]
    with pytest.raises(UserError, match="missing, and the dataset's `answer: chosen` asks for it"):
        read(tmp_path, EXCHANGE, answer="chosen")


def test_a_flag_takes_an_answer_out_of_the_loss(tmp_path: Path) -> None:
    for flag in ({"weight": 0}, {"train": False}, {"loss_mask": 0}):
        wrong = {"role": A, "content": "5", **flag}
        turns = [{"role": U, "content": "2+2?"}, wrong, {"role": U, "content": "Check."}]
        found = read(tmp_path, {"messages": [*turns, {"role": A, "content": "4", "weight": 1}]})
        assert [m.learned for m in next(iter(found)).messages] == [True, False, True, True]
        assert not found.ignored
        assert read(tmp_path, EXCHANGE, {"messages": turns[:2]}).left_out == {
            "no answer in the loss": 1
        }
    with pytest.raises(
        UserError, match=r"field 'messages.1.weight': given float 0.5; allowed: 0, 1"
    ):
        read(tmp_path, {"messages": [turns[0], {"role": A, "content": "5", "weight": 0.5}]})


def test_rows_that_cannot_be_used_are_left_out_and_counted(tmp_path: Path) -> None:
    def talk(*contents: object, roles: tuple[str, ...] = (U, A) * 3) -> dict[str, object]:
        turns = zip(roles, contents, strict=False)
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    called = {"role": A, "content": "I look.", "tool_calls": [{"name": "clock"}]}
    rows = [
        EXCHANGE,
        talk("a", " \n"),
        talk("a", "b", "c", ""),
        talk("a"),
        talk("a", "b", "c"),
        talk("a", roles=(A,)),
        {"messages": []},
        talk("a", "b", "c", roles=(U, U, A)),
        talk("a", "b", "c", roles=(U, S, A)),
        {"messages": [{"role": U, "content": "time?"}, called]},
        talk("a", "b", "c", "d", roles=(U, A, "tool", A)),
        {**MESSAGES, "tools": [{"name": "clock"}]},
        talk([{"type": "image_url", "image_url": "x"}], "b"),
        talk("a", None),
        {"prompt": "a", "response": None},
    ]
    found = read(tmp_path, *rows)
    assert found.left_out == {
        "empty answer": 2,
        "ends on a user turn": 2,
        "no user turn": 2,
        "roles do not alternate": 2,
        "calls tools": 2,
        "offers tools": 1,
        "a part that is no text (image_url)": 1,
        "a message without text": 1,
        "no answer": 1,
    }
    assert (found.given, len(list(found))) == (15, 1)


def test_fields_that_are_not_read_are_counted_by_name(tmp_path: Path) -> None:
    turns = [
        {"role": U, "content": "Hi", "name": "Ann"},
        {"role": A, "content": "Yes", "train": True},
    ]
    rows = [{**EXCHANGE, "id": 1, "note": None}, {"messages": turns, "id": 2, "prompt": "Hi"}]
    assert read(tmp_path, *rows).ignored == {"id": 2, "messages.name": 1, "prompt": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, r"row 2: given the fields text: no prompt .* no answer .*`columns:"),
        ({"prompt": "a"}, r"row 2: given the fields prompt: no answer \(output"),
        ({"prompt": "a", "output": "b", "answer": "c"}, "which of them is the answer"),
        ({"prompt": 3, "response": "b"}, r"field 'prompt': given int 3; allowed is a text"),
        ({"prompt": "\ud800", "response": "b"}, r"field 'prompt': not valid Unicode"),
        ({"messages": [7]}, r"field 'messages.0': given int 7; allowed is an object"),
        ({"messages": "a"}, r"field 'messages': given str 'a'; allowed is a list"),
        (
            {"messages": [{"role": ["user"], "content": "a"}]},
            r"'messages.0.role': given list",
        ),
        (
            {"messages": [{"role": "robot", "content": "a"}]},
            r"field 'messages.0.role': given str 'robot'; allowed: system, developer, user",
        ),
        ({"conversations": ["a", 1]}, r"field 'conversations.0': given str 'a'"),
        (7, r"row 2: given int 7; allowed is an object"),
    ],
)
def test_rows_that_cannot_be_read_are_counted_up_to_a_share(
    row: object, message: str, tmp_path: Path
) -> None:
    found = read(tmp_path, EXCHANGE, *[row] * 10)
    assert (len(found.unreadable), found.left_out.total(), len(list(found))) == (10, 0, 1)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, EXCHANGE, *[row] * 11)
    assert "11 of 12 rows" in str(caught.value) and "allowed are 10" in str(caught.value)
    assert len(read(tmp_path, *[EXCHANGE] * 1200, *[row] * 12).unreadable) == 12
