"""Prepared rows: what is in the loss, what is dropped, and which split a row is in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from ila_core.config import Preparation
from ila_core.data import Mixture
from ila_core.data.chat_template import Renderer
from ila_core.data.conversation import Conversation, Message
from ila_core.data.counts import said_of
from ila_core.data.loss_mask import IGNORED
from ila_core.data.prepared import Prepared, Row, longest
from ila_core.data.tokenize import prepare, split_of
from ila_core.errors import CheckError, UserError
from tests.helpers.datasets import dataset, write

ROOT = Path(__file__).parents[3]

MARKED = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + eos_token }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<' + m.role + '>\n' + m.content + '\n<assistant>\n' }}{% endif %}"
    "{% endfor %}"
)
# White space after the end token, and a generation prompt, as in ChatML.
UNMARKED = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<' + m.role + '>\n' + m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>\n' }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
SILENT_SYSTEM = UNMARKED.replace("in messages", "in messages if m.role != 'system'")
DATA = Preparation(max_length=200, held_out_fraction=0.2, gate_fraction=0.2, split_seed=0)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Byte-level, so that a token never hides where the text is cut."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", "<pad>", *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def talk(*texts: str, system: str | None = None) -> Conversation:
    lead = [] if system is None else [Message("system", system)]
    turns = [Message(("user", "assistant")[i % 2], t) for i, t in enumerate(texts)]  # type: ignore[arg-type]
    return Conversation((*lead, *turns))


def many(n: int, prefix: str = "q") -> list[Conversation]:
    return [talk(f"{prefix} {i}", f"answer {i}") for i in range(n)]


def prepared(
    conversations: list[Conversation], tokenizer: Any, template: str = MARKED, **changed: Any
) -> Prepared:
    """The rows of interest among enough others to fill every split."""
    data = DATA.model_copy(update=changed)
    return prepare([*conversations, *many(60)], Renderer(tokenizer, template), data, dataset="mine")


def learned(row: Row, tokenizer: Any) -> str:
    return str(tokenizer.decode([label for label in row.labels if label != IGNORED]))


def find(result: Prepared, text: str, tokenizer: Any) -> Row:
    rows = [row for split in result.splits.values() for row in split]
    return next(row for row in rows if text in tokenizer.decode(row.input_ids))


@pytest.mark.parametrize("template", [MARKED, UNMARKED], ids=["marked", "unmarked"])
@pytest.mark.parametrize(
    "texts",
    [
        ("What?", "That."),
        ("One\n", " two ", "three", "four\n\nfive", "six", "seven"),
        ("na\u00efve caf\u00e9", "\u65e5\u672c\u8a9e \U0001f642"),
        ("same", "same", "same", "same"),
    ],
)
@pytest.mark.parametrize("system", [None, "Be kind."])
def test_the_loss_is_every_answer_with_its_end_token(
    template: str, texts: tuple[str, ...], system: str | None, tokenizer: Any
) -> None:
    result = prepared([talk(*texts, system=system)], tokenizer, template)
    row = find(result, f"{texts[-1]}</s>", tokenizer)
    assert learned(row, tokenizer) == "".join(f"{answer}</s>" for answer in texts[1::2])
    assert all(b in (a, IGNORED) for a, b in zip(row.input_ids, row.labels, strict=True))
    text = tokenizer.decode(row.input_ids)
    assert (system or "") in text and all(t in text for t in texts)


def test_the_mask_is_the_one_that_transformers_gives(tokenizer: Any) -> None:
    messages = [
        {"role": role, "content": content}
        for role, content in [("user", "a"), ("assistant", "bc"), ("user", "d"), ("assistant", "e")]
    ]
    theirs = tokenizer.apply_chat_template(
        messages, chat_template=MARKED, return_assistant_tokens_mask=True, return_dict=True
    )
    row = find(prepared([talk("a", "bc", "d", "e")], tokenizer), "bc</s>", tokenizer)
    assert row.input_ids.tolist() == theirs["input_ids"]
    assert [int(label != IGNORED) for label in row.labels] == theirs["assistant_masks"]


def test_an_end_token_left_outside_the_marks_is_learned_too(tokenizer: Any) -> None:
    template = MARKED.replace(
        "{{ m.content + eos_token }}{% endgeneration %}",
        "{{ m.content }}{% endgeneration %}{{ eos_token }}",
    )
    inside, outside = (prepared([talk("a", "b")], tokenizer, t) for t in (MARKED, template))
    assert template != MARKED and inside.digest == outside.digest


def test_what_a_dataset_leaves_out_is_in_the_statistics(tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": f"q {i}", "response": f"answer {i}", "id": i} for i in range(60)]
    others = [{"prompt": "q", "response": None}, {"text": "no"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [*rows, *others]))
    data = Mixture([dataset(path)])
    result = prepare(data, Renderer(tokenizer, MARKED), DATA, dataset="mine")
    counts = result.counts
    assert (counts.given, counts.unreadable, counts.answers) == (62, 1, 60)
    assert (counts.dropped, counts.ignored) == ({"no answer": 1}, {"id": 60})
    assert said_of(result.statistics) == [
        "1 of 62 rows could not be read",
        "left out: 1 no answer",
        "fields that were ignored: id (60 rows)",
    ]
    assert sum(map(len, result.splits.values())) == 60


def test_given_conversations_are_held_out_and_their_prompts_are_not_trained_on(
    tokenizer: Any, tmp_path: Path
) -> None:
    def mixture(name: str, numbers: Iterable[int]) -> Mixture:
        rows = [{"prompt": f"q {i}", "response": f"{name} {i}"} for i in numbers]
        return Mixture([dataset(write(tmp_path / f"{name}.jsonl", rows))])

    data = DATA.model_copy(update={"held_out_fraction": 0.0, "gate_fraction": 0.0})
    result = prepare(
        mixture("train", range(60)),
        Renderer(tokenizer, MARKED),
        data,
        dataset="mine",
        validation=mixture("held", range(50, 70)),
    )
    assert {split: len(rows) for split, rows in result.splits.items()} == {
        "train": 50, "gate": 0, "held_out": 20,
    }  # fmt: skip
    assert result.counts.dropped == {"its prompt is held out": 10}
    assert result.counts.given == 80
    assert all("held" in learned(row, tokenizer) for row in result.splits["held_out"])
    assert all("train" in learned(row, tokenizer) for row in result.splits["train"])


def test_several_datasets_are_prepared_as_one(tokenizer: Any, tmp_path: Path) -> None:
    one = [{"prompt": f"a {i}", "response": f"x {i}", "id": i} for i in range(60)]
    other = [{"question": f"b {i}", "answer": f"y {i}"} for i in range(40)]
    parts = [write(tmp_path / "one.jsonl", one), write(tmp_path / "other.csv", other)]
    mixed = Mixture([dataset(part) for part in parts])
    result = prepare(mixed, Renderer(tokenizer, MARKED), DATA, dataset="one+other")
    assert sum(map(len, result.splits.values())) == result.counts.given == 100
    assert result.counts.ignored == {"id": 60}
    assert mixed.digests() == [dataset(part).read().digest() for part in parts]
    said = [learned(row, tokenizer)[0] for row in result.splits["train"]]
    assert {*said} == {"x", "y"}


def test_a_conversation_that_the_template_refuses_is_left_out_with_its_words(
    tokenizer: Any,
) -> None:
    shy = "{% if 'x' in messages[0].content %}{{ raise_exception('no x here') }}{% endif %}"
    result = prepared([talk("x", "y"), talk("xx", "y")], tokenizer, shy + UNMARKED)
    why = "the chat template does not render a conversation: no x here"
    assert result.counts.dropped == {why: 2}
    assert sum(map(len, result.splits.values())) == 60


def test_an_answer_that_is_masked_is_read_and_not_learned(tokenizer: Any) -> None:
    turns = [Message("user", "2+2?"), Message("assistant", "5", learned=False)]
    masked = Conversation((*turns, Message("user", "Check."), Message("assistant", "4")))
    for template in (MARKED, UNMARKED):
        row = find(prepared([masked], tokenizer, template), "Check.", tokenizer)
        assert learned(row, tokenizer) == "4</s>"
        assert "5</s>" in tokenizer.decode(row.input_ids)


def test_long_rows_are_cut_at_the_end_and_counted(tokenizer: Any) -> None:
    result = prepared([talk("hello", "long " * 100)], tokenizer)
    row = find(result, "long long", tokenizer)
    assert len(row.input_ids) == len(row.labels) == DATA.max_length
    assert tokenizer.decode(row.input_ids).startswith("<s><user>\nhello")
    assert "</s>" not in learned(row, tokenizer)
    counts = result.counts
    assert (counts.truncated, counts.ends_cut, counts.answers) == (1, 1, 61)
    text = "<user>\nhello\n<assistant>\n" + "long " * 100 + "\n"
    assert counts.tokens_cut == len(("<s>", "</s>")) + len(text) - DATA.max_length


def test_duplicates_share_a_split_and_are_counted(tokenizer: Any) -> None:
    result = prepared(many(60)[:5] * 2, tokenizer)
    assert result.counts.duplicates == 10
    for rows in result.splits.values():
        others = [r for split in result.splits.values() if split is not rows for r in split]
        assert not {tuple(r.input_ids) for r in rows} & {tuple(r.input_ids) for r in others}


def test_different_texts_that_become_the_same_tokens_never_share_splits(tokenizer: Any) -> None:
    cases = ["".join(letters) for letters in product(*zip("quest", "QUEST", strict=True))]
    lower = MARKED.replace("+ m.content + '", "+ m.content | lower + '")
    assert lower != MARKED
    result = prepared([talk(case, "answer") for case in cases], tokenizer, lower)
    rows = {split: {tuple(r.input_ids) for r in rows} for split, rows in result.splits.items()}
    assert not (rows["train"] & rows["gate"] or rows["train"] & rows["held_out"])
    assert result.counts.dropped["same tokens as a row of another split"] > 0


def test_a_row_added_or_removed_moves_no_other(tokenizer: Any) -> None:
    def homes(conversations: list[Conversation]) -> dict[tuple[int, ...], str]:
        result = prepare(conversations, Renderer(tokenizer, MARKED), DATA, dataset="mine")
        return {tuple(r.input_ids): s for s, rows in result.splits.items() for r in rows}

    base, more = many(80), [talk("new", "row"), *many(80)[::-1][:70]]
    before, after = homes(base), homes(more)
    assert all(before[row] == split for row, split in after.items() if row in before)
    assert len(before.keys() & after.keys()) == 70


def test_splits_keep_their_fractions_and_follow_the_seed() -> None:
    talks = [talk(f"question {i}", "answer") for i in range(4000)]
    drawn = [split_of(one, DATA) for one in talks]
    assert 0.17 < drawn.count("held_out") / 4000 < 0.23
    assert 0.17 < drawn.count("gate") / 4000 < 0.23
    other = DATA.model_copy(update={"split_seed": 1})
    assert drawn != [split_of(one, other) for one in talks]


def test_a_prompt_never_stands_in_two_splits(tokenizer: Any) -> None:
    """Whatever is answered, asked next, or said by the system."""
    for i in range(20):
        variants = [
            talk(f"q {i}", "a"),
            talk(f"q {i} ", "b", "c", "d"),
            talk(f"q {i}", "e", system="f"),
        ]
        assert len({split_of(one, DATA) for one in variants}) == 1


def test_rows_keep_the_order_of_the_dataset(tokenizer: Any) -> None:
    result = prepare(many(60), Renderer(tokenizer, MARKED), DATA, dataset="mine")
    for rows in result.splits.values():
        numbers = [int(learned(row, tokenizer).removesuffix("</s>").split()[1]) for row in rows]
        assert numbers == sorted(numbers)


def test_an_empty_split_is_an_error_that_says_what_to_change(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"mine: its (train|held_out|gate) split is empty, with 1"):
        prepare(many(1), Renderer(tokenizer, MARKED), DATA, dataset="mine")
    everything_away = DATA.model_copy(update={"held_out_fraction": 0.6, "gate_fraction": 0.6})
    with pytest.raises(UserError, match=r"train split is empty.* lower the held-out"):
        prepare(many(60), Renderer(tokenizer, MARKED), everything_away, dataset="mine")
    without_gates = DATA.model_copy(update={"gate_fraction": 0})
    assert not prepare(many(60), Renderer(tokenizer, MARKED), without_gates, dataset="mine").splits[
        "gate"
    ]


@pytest.mark.parametrize("template", [NO_SYSTEM + UNMARKED, SILENT_SYSTEM, NO_SYSTEM + MARKED])
def test_a_system_message_without_a_place_goes_before_the_first_user_turn(
    template: str, tokenizer: Any
) -> None:
    result = prepared([talk("hello", "world", system="Be kind.")], tokenizer, template)
    row = find(result, "world", tokenizer)
    assert "<user>\nBe kind.\n\nhello\n" in tokenizer.decode(row.input_ids)
    assert result.counts.system_merged == result.statistics["system_merged"] == 1
    assert prepared([talk("hello", "world", system="Hm.")], tokenizer).counts.system_merged == 0


def test_saved_rows_come_back_and_damage_is_seen(tokenizer: Any, tmp_path: Path) -> None:
    result = prepared([talk("hello", "world", system="Be kind.")], tokenizer, gate_fraction=0)
    result.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["prepared.json", "prepared.safetensors"]
    loaded = Prepared.load(tmp_path)
    assert (loaded.counts, loaded.digest) == (result.counts, result.digest)
    assert {s: len(rows) for s, rows in loaded.splits.items()} == result.statistics["rows"]
    assert longest(tmp_path, "train") == len(result.splits["train"][0].input_ids)
    path = tmp_path / "prepared.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckError, match="is damaged"):
        Prepared.load(tmp_path)


def test_the_digest_sees_labels_and_splits(tokenizer: Any) -> None:
    one = prepare(many(60), Renderer(tokenizer, MARKED), DATA, dataset="mine")
    same = prepare(many(60), Renderer(tokenizer, MARKED), DATA, dataset="another name")
    alike = prepare(many(60), Renderer(tokenizer, UNMARKED), DATA, dataset="mine")
    assert one.digest == same.digest == alike.digest
    others = [
        prepare(many(61), Renderer(tokenizer, MARKED), DATA, dataset="mine"),
        prepare(many(60)[::-1], Renderer(tokenizer, MARKED), DATA, dataset="mine"),
        prepared([], tokenizer, split_seed=1),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 4


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["lima/train.jsonl", "alpaca_gpt4/alpaca_gpt4_1000.json"])
def test_real_rows_are_learned_exactly(real_data: Path, name: str) -> None:
    from transformers import AutoTokenizer

    real = AutoTokenizer.from_pretrained(real_data / "models" / "stories3M", local_files_only=True)
    data = Mixture([dataset(real_data / name)])
    conversations = list(data)
    whole = DATA.model_copy(update={"max_length": 100_000})
    marked = prepare(data, Renderer(real, MARKED), whole, dataset="real")
    unmarked = prepare(data, Renderer(real, UNMARKED), whole, dataset="real")
    assert marked.counts.dropped == ({"ends on a user turn": 1} if "lima" in name else {})
    answers = sorted(
        _squeezed("".join(m.content + "</s>" for m in c.turns if m.role == "assistant"))
        for c in conversations
    )
    for result in (marked, unmarked):
        rows = [row for split in result.splits.values() for row in split]
        assert sorted(_squeezed(learned(row, real)) for row in rows) == answers


def _squeezed(text: str) -> str:
    """Without white space: this tokenizer's decoder adds and removes spaces at the edges."""
    return "".join(text.split())
