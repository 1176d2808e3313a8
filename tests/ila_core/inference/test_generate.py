"""Questions and answers: what is asked, cut, sampled, resumed, and written in FastChat's schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from transformers import AddedToken

from ila_core.config import GenerationSettings
from ila_core.data.chat_template import Renderer
from ila_core.data.conversation import Conversation, Message
from ila_core.errors import CheckError, UserError
from ila_core.inference.fastchat import read_fastchat, write_fastchat
from ila_core.inference.generate import Answer, answer_all, end_tokens
from ila_core.inference.questions import Question, load_questions, questions_digest
from ila_core.inference.sampling import RowSampler, gumbel
from tests.helpers import spoken
from tests.helpers.spoken import QUESTIONS, answered, asked, write_lines

GREEDY = GenerationSettings(max_new_tokens=12, temperature="greedy")
KNOWN = [-1.025621, -0.093119, 0.670922, 0.269883]
SAMPLED = GenerationSettings(max_new_tokens=12, temperature="by_category", seed=3)


def answers(
    partial: Path, questions: tuple[Question, ...] = QUESTIONS, *, model: Any = None, **changed: Any
) -> list[Answer]:
    options = {"settings": GREEDY, "batch": 2} | changed
    return answer_all(
        spoken.model() if model is None else model,
        spoken.tokenizer(),
        spoken.renderer(),
        questions,
        partial=partial,
        **options,
    )


# ---------------------------------------------------------------- questions


def test_questions_and_references_are_read(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "question.jsonl",
        asked(1, "Hi") | {"reference": ["its own, which FastChat's judge leaves alone"]},
        asked(2, "1+1?", "2+2?", category="math"),
    )
    references = write_lines(tmp_path / "gpt-4.jsonl", answered(2, "2", "4"))
    one, two = load_questions(path, references)
    assert one.reference is None and two.reference == ("2", "4")
    assert one.temperature == 0.7 and two.temperature == 0
    assert questions_digest((one, two)) != questions_digest((two, one))
    assert questions_digest(load_questions(path)) != questions_digest((one, two))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["{"], "row 1: not JSON"),
        (["1"], "row 1: given int"),
        ([asked(1, "a"), {"question_id": 2, "turns": ["a"]}], "row 2, field 'category': missing"),
        ([{"question_id": 2, "category": "x"}], "field 'turns': missing"),
        ([asked(1, "a"), asked(1, "b")], "row 2, field 'question_id': 1 is there twice"),
        ([asked(1)], "given 0 of them; allowed are 1 to 2"),
        ([asked(1, "a", "b", "c")], "given 3 of them"),
        ([asked(1) | {"turns": [7]}], "turns[0]': given int 7"),
        ([asked(1) | {"turns": "a"}], "allowed is a list"),
        ([asked(1, "a") | {"question_id": "1"}], "allowed is a whole number"),
        ([], "no question in it"),
    ],
)
def test_what_is_no_question_is_named(tmp_path: Path, rows: list[Any], says: str) -> None:
    path = write_lines(tmp_path / "question.jsonl", *rows)
    with pytest.raises(UserError) as error:
        load_questions(path)
    assert says in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (answered(9, "a"), "has no question 9"),
        (answered(1, "a"), "answers 1 of the 2 turns of question 1"),
        ({"question_id": 1, "choices": [{}]}, "allowed is an object with `turns`"),
        ({"question_id": 1, "choices": []}, "allowed is a list with an item"),
    ],
)
def test_what_is_no_reference_is_named(tmp_path: Path, row: Any, says: str) -> None:
    path = write_lines(tmp_path / "question.jsonl", asked(1, "a", "b"))
    with pytest.raises(UserError, match=says):
        load_questions(path, write_lines(tmp_path / "references.jsonl", row))


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "turns", "references"), [("mt_bench", 2, 30), ("vicuna", 1, 10)])
def test_the_published_question_sets(
    real_data: Path, name: str, turns: int, references: int
) -> None:
    folder = real_data / "fastchat" / (name if name == "mt_bench" else "vicuna_bench")
    found = load_questions(folder / "question.jsonl", folder / "reference_answer" / "gpt-4.jsonl")
    assert len(found) == 80 and {len(q.turns) for q in found} == {turns}
    assert sum(q.reference is not None for q in found) == references
    needing = [q for q in found if q.category in ("math", "coding", "reasoning")]
    assert len(needing) == references and all(q.reference for q in needing)


# ---------------------------------------------------------------- prompts


@pytest.mark.parametrize("marked", [True, False])
def test_a_prompt_is_what_stood_before_the_answer_in_training(marked: bool) -> None:
    unmarked = (
        "{{ bos_token }}{% for m in messages %}{{ '<' + m.role + '>' + m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
    )
    renderer = Renderer(spoken.tokenizer(), spoken.TEMPLATE if marked else unmarked)
    asked = (Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "More"))
    prompt = renderer.prompt(Conversation(asked))
    (trained,) = renderer.render(Conversation((*asked, Message("assistant", "Done"))))
    assert trained.text.startswith(prompt + "Done</s>")
    assert "Yes?</s>" in prompt
    assert renderer.end_of_answer == "</s>"


def test_every_token_that_ends_an_answer_is_one() -> None:
    tokenizer, model = spoken.tokenizer(), spoken.model()
    tokenizer.add_tokens(AddedToken("<|im_end|>", special=True))  # one that has no name
    template = spoken.TEMPLATE.replace("m.content + eos_token", "m.content + ' <|im_end|>'")
    model.generation_config.eos_token_id = [7, 8]
    found = end_tokens(model, tokenizer, Renderer(tokenizer, template))
    assert found == (1, 7, 8, tokenizer.convert_tokens_to_ids("<|im_end|>"))


# ---------------------------------------------------------------- generation


def by_hand(model: Any, text: str, length: int) -> list[int]:
    """Greedy, one token at a time, without a cache."""
    ids = spoken.tokenizer()(text, add_special_tokens=False)["input_ids"]
    made: list[int] = []
    with torch.no_grad():
        while len(made) < length and 1 not in made:
            made.append(int(model.eval()(torch.tensor([ids + made])).logits[0, -1].argmax()))
    return made


def test_both_turns_are_what_one_token_at_a_time_gives(tmp_path: Path) -> None:
    model, tokenizer = spoken.model(), spoken.tokenizer()
    for question, answer in zip(QUESTIONS, answers(tmp_path / "a"), strict=True):
        text = "<s>"
        for turn, said in zip(question.turns, answer.turns, strict=True):
            text += f"U:{turn}\nA:"
            ids = by_hand(model, text, 12)
            assert said == tokenizer.decode(ids, skip_special_tokens=True).strip()
            text += said + "</s>\n"
        assert answer.question_id == question.id
        assert all(0 < tokens <= 12 for tokens in answer.tokens)
        assert answer.cut == (0,) * len(question.turns)


def test_a_model_that_ends_its_turn_has_finished(tmp_path: Path) -> None:
    model = spoken.model()
    head = model.get_output_embeddings()
    model.lm_head = torch.nn.Linear(32, 259, bias=True)
    model.lm_head.weight.data.copy_(head.weight)
    model.lm_head.bias.data.zero_()
    model.lm_head.bias.data[1] = 1e6
    for answer in answers(tmp_path / "a", model=model):
        assert set(answer.tokens) == {1} and all(answer.finished) and set(answer.turns) == {""}


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED])
def test_the_batch_changes_nothing(tmp_path: Path, settings: GenerationSettings) -> None:
    one = answers(tmp_path / "one", settings=settings, batch=1)
    assert one == answers(tmp_path / "four", settings=settings, batch=4)


def test_the_seed_decides_what_is_sampled(tmp_path: Path) -> None:
    one, two = (SAMPLED.model_copy(update={"seed": seed}) for seed in (1, 2))
    assert answers(tmp_path / "1", settings=one) != answers(tmp_path / "2", settings=two)


def test_only_the_categories_with_a_temperature_are_sampled(tmp_path: Path) -> None:
    greedy = {a.question_id: a for a in answers(tmp_path / "greedy")}
    sampled = {a.question_id: a for a in answers(tmp_path / "sampled", settings=SAMPLED)}
    differing = {n for n in greedy if greedy[n] != sampled[n]}
    assert 81 in differing and not differing & {101, 111}


def test_a_row_samples_from_the_softmax_at_its_temperature() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0])
    sampler = RowSampler([0.7, 0.0], ["a", "b"])
    draws = [sampler(None, logits.repeat(2, 1)).argmax(-1) for _ in range(4000)]  # type: ignore[arg-type]
    first, second = torch.stack(draws).unbind(1)
    expected = (logits / 0.7).softmax(0)
    assert torch.allclose(first.bincount(minlength=3) / 4000, expected, atol=0.03)
    assert set(second.tolist()) == {0}


def test_noise_is_the_same_everywhere_and_that_of_gumbel() -> None:
    assert gumbel(["key", 0], 4, "cpu").tolist() == pytest.approx(KNOWN, rel=1e-5)
    rows = torch.stack([gumbel(["key", position], 2_000, "cpu") for position in range(100)])
    assert stats.kstest(rows.flatten().numpy(), "gumbel_r").pvalue > 1e-3
    for one, other in ((rows[1:], rows[:-1]), (rows[:, 1:], rows[:, :-1])):
        assert abs(stats.spearmanr(one.flatten(), other.flatten()).statistic) < 0.01
    assert stats.kstest(rows.argmax(1).numpy() / 2_000, "uniform").pvalue > 1e-3


def test_prompts_are_cut_behind_the_bos_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = spoken.CONTEXT - GREEDY.max_new_tokens
    around = len("U:\nA:") + 1  # and BOS
    fits = Question(id=1, category="math", turns=("x" * (room - around),))
    assert answers(tmp_path / "fits", (fits,))[0].cut == (0,)
    long = Question(id=1, category="math", turns=("x" * 300 + "end", "more"))
    model, read = spoken.model(), []
    generate = model.generate

    def spy(ids: torch.Tensor, **options: Any) -> Any:
        read.append(ids[0].tolist())
        return generate(ids, **options)

    monkeypatch.setattr(model, "generate", spy)
    answer = answers(tmp_path / "long", (long,), model=model)[0]
    assert answer.cut[0] == around + 303 - room < answer.cut[1]
    kept = "<s>" + ("U:" + "x" * 300 + "end\nA:")[-(room - 1) :]
    assert read[0] == spoken.tokenizer()(kept, add_special_tokens=False)["input_ids"]
    assert [len(ids) for ids in read] == [room, room] and read[1][0] == read[0][0]


def test_no_room_for_a_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="allowed are 1 to 190"):
        answers(tmp_path / "a", settings=GenerationSettings(max_new_tokens=192))


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = spoken.model().train()
    model.generation_config.repetition_penalty = 5.0
    own, state = model.generation_config, torch.get_rng_state()
    with_own = answers(tmp_path / "a", model=model, settings=SAMPLED)
    assert model.generation_config is own and model.config.use_cache is False
    assert all(module.training for module in model.modules())
    assert torch.equal(state, torch.get_rng_state())
    assert with_own == answers(tmp_path / "b", settings=SAMPLED)  # the penalty has no part in it


def test_an_adapter_answers_as_its_merged_model(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(spoken.model(), LoraConfig(target_modules=["q_proj", "down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted = answers(tmp_path / "a", model=model)
    assert adapted != answers(tmp_path / "base")
    assert adapted == answers(tmp_path / "b", model=model.merge_and_unload())


# ---------------------------------------------------------------- resuming


class Killed(Exception):
    pass


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED])
def test_what_was_answered_is_not_answered_again(
    tmp_path: Path, settings: GenerationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = answers(tmp_path / "whole", settings=settings, batch=1)
    seen: list[int] = []

    def die(count: int, metrics: dict[str, float]) -> None:
        seen.append(count)
        assert metrics["answer_tokens"] > 0
        if count == 3:
            raise Killed

    with pytest.raises(Killed):
        answers(tmp_path / "cut", settings=settings, batch=1, on_metrics=die)
    with (tmp_path / "cut").open("a") as file:
        file.write('{"of": "a line that the kill cut sho')
    resumed = answers(
        tmp_path / "cut", settings=settings, batch=1, on_metrics=lambda n, _: die(4, _)
    )
    assert seen == [1, 2, 3, 4] and resumed == whole

    monkeypatch.setattr(
        "ila_core.inference.generate._Writer.answers", lambda *_: pytest.fail("again")
    )
    assert answers(tmp_path / "cut", settings=settings) == whole
    assert answers(tmp_path / "cut", QUESTIONS[1:3], settings=settings) == whole[1:3]


def test_answers_of_other_settings_are_not_taken_over(tmp_path: Path) -> None:
    answers(tmp_path / "a")
    with pytest.raises(CheckError, match="other settings"):
        answers(tmp_path / "a", settings=SAMPLED)
    (tmp_path / "b").write_text("{}\n")
    with pytest.raises(CheckError, match="line 1: damaged"):
        answers(tmp_path / "b")


# ---------------------------------------------------------------- FastChat's schema

TURNS = [Answer(question_id=q.id, turns=tuple(f"a {t}" for t in q.turns)) for q in QUESTIONS]


def test_fastchat_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "answers" / "mine.jsonl"
    write_fastchat(TURNS, "mine", path)
    once = path.read_bytes()
    rows = [json.loads(line) for line in once.splitlines()]
    assert set(rows[0]) == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
    assert rows[0]["choices"] == [{"index": 0, "turns": ["a Write.", "a Shorter."]}]
    assert rows[0]["model_id"] == "mine" and len({row["answer_id"] for row in rows}) == 4
    write_fastchat(TURNS, "mine", path)
    assert path.read_bytes() == once
    assert read_fastchat(path, QUESTIONS) == TURNS


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ((81, 101, 111), "has no answer to the questions \\(141\\)"),
        ((81, 101, 111, 141, 5), "not in the question set \\(5\\)"),
        ((81, 81), "81 is there twice"),
    ],
)
def test_the_answers_to_other_questions_are_refused(
    tmp_path: Path, ids: tuple[int, ...], says: str
) -> None:
    path = write_lines(tmp_path / "a.jsonl", *(answered(n, "x", "y") for n in ids))
    with pytest.raises(UserError, match=says):
        read_fastchat(path, QUESTIONS)


def test_an_answer_with_other_turns_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", *(answered(q.id, "x", "y") for q in QUESTIONS))
    with pytest.raises(UserError, match="2 turns; question 101 has 1"):
        read_fastchat(path, QUESTIONS)


@pytest.mark.real_data
def test_a_trained_model_answers_real_questions(real_data: Path, tmp_path: Path) -> None:
    from ila_core.config import ModelConfig
    from ila_core.config.load import load_model_config
    from ila_core.models.architecture import completed, facts
    from ila_core.models.loading import load_base, load_tokenizer

    given = load_model_config("stories3m").model_dump()
    folder = str(real_data / "models" / "stories3M")
    written = ModelConfig.model_validate(given | {"source": folder})
    config = completed(written, lambda: facts(written))
    tokenizer = load_tokenizer(config)
    questions = load_questions(real_data / "fastchat" / "mt_bench" / "question.jsonl")[:2]
    found = answer_all(
        load_base(config, "cpu"),
        tokenizer,
        Renderer(tokenizer, config.template),
        questions,
        settings=GenerationSettings(max_new_tokens=24),
        batch=2,
        partial=tmp_path / "partial.jsonl",
    )
    assert all(len(text) > 20 for answer in found for text in answer.turns)
    write_fastchat(found, "stories3m", tmp_path / "a.jsonl")
    assert [a.turns for a in read_fastchat(tmp_path / "a.jsonl", questions)] == [
        a.turns for a in found
    ]
