"""Chat templates: what is learned of a conversation, and which templates are refused and why.

The 72 templates that TRL ships stand for what people have.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ila_core.data.conversation import Conversation, Message
from ila_core.data.loss_mask import labels
from ila_core.data.template import Rendered
from ila_core.errors import UserError
from tests.helpers.templates import SHIPPED, renderer_of, tokenizer_of

REFUSED = {
    **dict.fromkeys(
        (
            *("deepseek_r1_distill", "deepseek_r1_distill_training"),
            *("deepseekv3", "deepseekv3_training"),
            *(
                f"nemotron_3_{size}{kind}"
                for size in ("nano", "super", "ultra", "5_lightning")
                for kind in ("", "_training")
            ),
        ),
        r"asks with .*<think>.*a model would be asked otherwise than it was trained",
    ),
    **dict.fromkeys(
        ("gptoss", "gptoss_training", "llama3_2", "muse_glimmer", "muse_glimmer_training"),
        r"writes today's date.*`template_variables: \{strftime_now:",
    ),
    "glm4moe": r"ends an answer with '', .* would never learn to stop",
}
"""Those of TRL's that cannot be right as they are, with the reason."""
REWRITING = ("phi3", "phi3_training", "phi3_5", "phi3_5_training", "qwen3", "qwen3_5_think",
             "qwen3_5_nothink", "qwen3_6")  # fmt: skip
"""Those that write earlier turns anew."""
SOUND = sorted(SHIPPED.keys() - REFUSED.keys())


def talk(*texts: str) -> Conversation:
    turns = [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]
    return Conversation(tuple(turns))


def learned(rendered: Rendered) -> list[str]:
    return [rendered.text[a:b] for a, b in rendered.spans]


@pytest.mark.parametrize("name", SOUND)
def test_each_answer_with_its_end_is_learned_and_nothing_else(name: str) -> None:
    rows = renderer_of(name).render(talk("Hi there", "Hello.", "Bye", "Take care."))
    assert len(rows) == (2 if name in REWRITING else 1)
    stretches = [text for row in rows for text in learned(row)]
    end = re.escape(renderer_of(name).end_of_answer)
    for text, answer in zip(stretches, ("Hello.", "Take care."), strict=True):
        assert re.fullmatch(rf" ?{re.escape(answer)}{end}", text), text
    assert all("Hi there" in row.text for row in rows)


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_cannot_be_right_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(UserError, match=f"(?s){REFUSED[name]}"):
        renderer_of(name)


def test_what_was_refused_for_a_switch_or_a_date_is_taken_with_it() -> None:
    asked = talk("Hi", "Hello.")
    (row,) = renderer_of("nemotron_3_nano", enable_thinking=False).render(asked)
    assert learned(row) == ["Hello.<|im_end|>"] and "<think></think>" in row.text
    (dated,) = renderer_of("llama3_2", strftime_now="26 Jul 2024").render(asked)
    (by_name,) = renderer_of("llama3_2", date_string="26 Jul 2024").render(asked)
    assert dated == by_name and "Today Date: 26 Jul 2024" in dated.text


words = st.text("abc XYZ.,!?'-\n0123456789\u00e9\u4e2d\U0001f600", min_size=1).filter(
    lambda text: text == text.strip() and text
)


@pytest.mark.parametrize("name", ["qwen3", "llama3", "gemma", "phi3", "qwen2_5_training", "cohere"])
@settings(deadline=None, max_examples=30)
@given(texts=st.lists(words, min_size=2, max_size=6).filter(lambda x: len(x) % 2 == 0))
def test_a_model_is_asked_as_it_was_trained(name: str, texts: list[str]) -> None:
    renderer, tokenizer = renderer_of(name), tokenizer_of(SHIPPED[name])
    rows = renderer.render(talk(*texts))
    asked = Conversation(talk(*texts).messages[:-1])
    prompt, last = renderer.prompt(asked), rows[-1]
    start, end = last.spans[-1]
    assert last.text[:start] == prompt, "a row cut at its answer is the prompt"
    theirs = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in asked.messages],
        chat_template=SHIPPED[name],
        add_generation_prompt=True,
        tokenize=False,
    )
    lead = "<think>\n\n</think>\n\n" if name == "qwen3" else ""
    assert prompt == theirs + lead
    tokens = tokenizer(last.text, add_special_tokens=False, return_offsets_mapping=True)
    ids = np.array(tokens["input_ids"], dtype=np.int32)
    marked = labels(ids, tokens["offset_mapping"], [(start, end)])
    back = tokenizer.decode([label for label in marked.tolist() if label >= 0])
    assert back.strip() == last.text[start:end].strip(), "the answer comes back from its tokens"


def test_an_empty_thinking_block_carries_no_loss() -> None:
    renderer = renderer_of("qwen3")
    (row,) = renderer.render(talk("Hi", "Yes."))
    assert learned(row) == ["Yes.<|im_end|>"]
    assert row.text.endswith("<think>\n\n</think>\n\nYes.<|im_end|>\n")
    (thought,) = renderer.render(talk("Hi", "<think>\nHm.\n</think>\n\nYes."))
    assert learned(thought) == ["<think>\nHm.\n</think>\n\nYes.<|im_end|>"]


HEAD = "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>' }}"
TAIL = "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"


def test_two_marked_stretches_of_one_answer_are_one() -> None:
    split = (
        HEAD + "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% generation %}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
        + TAIL
    )
    renderer = renderer_of(split)
    assert [learned(row) for row in renderer.render(talk("a", "b", "c", "d"))] == [
        ["b</s>", "d</s>"]
    ]
    assert renderer.prompt(Conversation(talk("a", "b", "c").messages)).endswith(
        "<|user|>c<|assistant|>"
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}", r"does not render a conversation \(line 1"),
        ("{{ raise_exception('no') }}", "does not render a conversation: no"),
        (HEAD + "{{ m.content }}" + TAIL, "ends an answer with '', .* `?.*{{ eos_token }}"),
        (HEAD + "{{ m.content }}{{ eos }}" + TAIL, r"prints 'eos' \(line 1\), which"),
        (HEAD + "{{ m.content + eos_token + end }}" + TAIL, r"prints 'end' \(line 1\)"),
        (
            HEAD + "{{ m.content }}{% generation %}{% endgeneration %}" + TAIL,
            "marks 0 stretches in a conversation of 1 answers",
        ),
        (
            HEAD + "{{ m.content }}{% generation %}{{ eos_token }}{% endgeneration %}" + TAIL,
            "marks 2 stretches in a conversation of 1 answers",
        ),
        (
            HEAD + "{{ m.content }}{{ eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|bot|>' }}{% endif %}",
            r"it ends with '.*<\|bot\|>', and a conversation with an answer reads",
        ),
        (HEAD + "{{ m.content }}{{ eos_token }}{{ strftime_now('%d') }}" + TAIL, "today's date"),
    ],
)  # fmt: skip
def test_a_template_that_spoils_a_training_is_refused(template: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        renderer_of(template)


def test_a_name_that_a_template_asks_about_may_be_missing() -> None:
    optional = "{% if tools %}{{ tools }}{% endif %}{{ greeting if greeting is defined else '' }}"
    assert renderer_of(optional + HEAD + "{{ m.content }}{{ eos_token }}" + TAIL)


def test_a_comment_about_the_date_refuses_nothing() -> None:
    assert renderer_of("{# strftime_now #}" + HEAD + "{{ m.content }}{{ eos_token }}" + TAIL)
