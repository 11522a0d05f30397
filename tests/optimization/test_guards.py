"""What small LMs really send back as an instruction, and what a good one looks like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tp_dspy.lms.answers import normalized
from tp_dspy.optimization.guards import Guard, cut_back, is_closed, unwrap
from tp_dspy.optimization.reference_prompt import ReferencePrompt, TaskBrief

EXAMPLES = [
    "A 54-year-old man has chest pain that radiates to the left arm and started one hour ago.",
    "Which nerve supplies the deltoid?",
    "The company said that its net sales fell by 4 % to 12 million euros in the second quarter.",
]
REFERENCE = ReferencePrompt((TaskBrief("t", "", None, None, ()),), ("answer",))
GUARD = Guard(
    EXAMPLES,
    prompt=REFERENCE.fixed_text(),
    labels={"Question", "Patient note"},
    answers={"Answer"},
    allowed={"yes", "no"},
)

GOOD = [
    "Answer yes or no.",
    "Reply with A, B, C or D only.",
    "Classify.\nOne word.",
    "Respond with the single letter of the correct option; do not explain.",
    "You are an experienced cardiologist. Read the question, weigh each option, and reply with one letter.",
    'Decide whether the statement is hearsay. Answer "Yes" if it is offered for its truth, otherwise "No".',
    'Read what stands after "Question:" and give only the letter of the best option.',
    '"Question:" holds a medical question. Name the letter of the right option.',
    "Classify the sentence.\n- Answer positive if profit or sales rise.\n- Answer negative if profit or sales fall.\n"
    "- Answer neutral if neither is said.\nReply with one word and nothing else.",
    "1. Read the note.\n2. Find the main complaint.\n3. Decide whether it is urgent.\n4. Reply: urgent or routine.",
    "### Task\nDecide which option is right.\n\n### Instructions:\nThink first, then give **one** letter.",
    "Think step by step, then, on the last line, write the answer in the form `Answer: X`.",
    "Rate how sure you are with a score from 0 to 100, and give the answer first.",
    "- Question: what is to be answered\n- Answer: one letter, A to D\nFill in the answer.",
    "Compare the options: the best one wins.\n\nReply in this form.\nAnswer: <letter>\nExplanation: <one sentence>",
    "Weigh the choices: each may be right. Reply with the line\nAnswer: X",
    "Answer: yes or no.",
    "Is it hearsay? Options: yes, no. Reply with one of them and nothing else.",
    "Which of these is it?\nOptions:\nyes means that the statement was made out of court.\nno means that it was not.",
    "Write two lines:\nAnswer: the letter\nExplanation: one sentence",
    "请只回答一个字母: A、B、C 或 D。",
    "Act as a careful lawyer. Consider the rule, apply the rule to the facts, and consider the exceptions to the rule. "
    "State whether the rule applies: yes or no. Do not restate the facts, do not cite cases, and do not hedge. If the "
    "facts leave room for doubt, choose the answer that the weight of the facts supports. Your reply must be one word.",
]

JUNK = [
    ("", "empty"),
    ("...", "empty"),
    ("Be helpful, honest, " + "trustworthy, " * 60, "over and over"),
    ("Answer well. " + "Make sure that the answer is right and clear. " * 12, "over and over"),
    ("\n".join(f"{i}. Be accurate and clear." for i in range(1, 40)), "over and over"),
    ("Your score is: 59", "score"),
    ("Score: 59", "score"),
    ("The new score of the instruction is 72 out of 100.", "score"),
    ("Your score is 59.\nThe best score was 60.", "score"),
    ("59", "score"),
    ("B", "one word"),
    ("Sure", "one word"),
    ("Item: A patient has fever. Reply: 'A'; expected: B", "item"),
    ("- Item: which nerve is it?\n  Reply: 'A'; expected: B", "item"),
    ("Question: What is the capital of France?\nA. Paris\nB. Rome", "item"),
    ("**Question:** What is the capital of France?", "item"),
    ("Patient note: cough since Monday", "item"),
    ("Is the text about law? Options: Legal, Other.\nAnswer: Legal", "item"),
    ("Look for matches.\n**Options:** Yes, No\n\n**Answer:** Yes", "item"),
    ("Be exact.\nAnswer: Legal\nExplanation: The item asks about a court and so it is a legal matter.", "item"),
    ("Does it create a private right of action? Options: Yes, No", "item"),
    ("What is the content of the text?\n\nOptions:\nYes\nNo", "item"),
    ("**Answer:** Yes", "an answer"),
    ("answer: NO.", "an answer"),
    ("Where the best of them failed: it did not say what to do.", "request"),
    ("Instructions tried so far with their scores, from 0 to 100: none.", "request"),
    ("Write one new instruction, different from those above, that will score higher.", "request"),
    ("Answer the item.\n\nInstruction: Answer briefly please.", "history"),
    ("<INS> Answer <INS> the question", "marker"),
    ("Say [[ ## answer ## ]] first.", "marker"),
    ("Answer for a 54-year-old man has chest pain that radiates to the left arm.", "copies"),
    ("Tell me: which nerve supplies the deltoid?", "copies"),
    ("Answer briefly " + "and with " + " ".join(f"word{i}" for i in range(300)), "characters"),
]


@pytest.mark.parametrize("text", GOOD)
def test_good_instructions_pass(text: str) -> None:
    assert GUARD.reject(unwrap(f"<INS>{text}</INS>"), set()) is None
    assert unwrap(f"<INS>\n{text}\n</INS>") == text
    assert GUARD.reject(unwrap(text), set()) is None


@pytest.mark.parametrize(("text", "reason"), JUNK)
def test_junk_is_rejected_and_the_reason_fits(text: str, reason: str) -> None:
    given_reason = GUARD.reject(unwrap(text), set())
    assert given_reason is not None
    assert reason in given_reason


def test_a_repeat_is_one_whatever_its_case_and_punctuation() -> None:
    known = {normalized("Answer yes or no.")}
    assert "tried already" in (GUARD.reject("ANSWER: yes, or no", known) or "")
    assert GUARD.reject("Answer no or yes.", known) is None


def test_what_all_examples_share_is_the_frame_of_the_task_and_may_be_named() -> None:
    choices = ["['positive', 'negative', 'neutral']"] * 20
    asked = [
        f"Sentence {word}. What is the tone of this sentence for an investor today?" for word in "abcdefghijklmnopqrst"
    ]
    guard = Guard([*choices, *asked])
    assert guard.reject("Reply with positive, negative, neutral.", set()) is None
    assert guard.reject("Say what is the tone of this sentence for an investor today.", set()) is None
    # A passage that belongs to a few items is no frame.
    passage = "The river Wey rises in two places and flows through the old town."
    assert "copies" in (Guard([passage] * 2 + asked).reject(f"Know that {passage}", set()) or "")


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("<INS>Answer yes or no.</INS>", "Answer yes or no."),
        ("Sure! <INS> Answer yes or no. </INS> I hope this helps.", "Answer yes or no."),
        ("<ins>Answer yes or no.</ins>", "Answer yes or no."),
        ("Between <INS> and </INS>:\n<INS>Answer yes or no.</INS>", "Answer yes or no."),
        ("<INS>Answer yes or no.", "Answer yes or no."),
        ("Answer yes or no.</INS>", "Answer yes or no."),
        ('Instruction: "Answer yes or no."', "Answer yes or no."),
        ('"Instruction: Answer yes or no."', "Answer yes or no."),
        ("**New instruction:** Answer yes or no.", "Answer yes or no."),
        ("Instruction: (A) or (B)?", "(A) or (B)?"),
        ("Sure! Here is an improved instruction:\n\nAnswer yes or no.", "Answer yes or no."),
        ("Here is the advice:\n\nLook at the drug.", "Look at the drug."),
        ("Sure! Here's an explanation: Look at the drug.", "Look at the drug."),
        ("Advice: Look at the drug.", "Look at the drug."),
        ("```text\nAnswer yes or no.\n```", "Answer yes or no."),
        ("“Answer yes or no.”", "Answer yes or no."),
        ("'A' or 'B'", "'A' or 'B'"),
        ("Answer yes or no.\nScore: 70\n\nInstruction: Answer.", "Answer yes or no."),
        ("Say negative, neutral or positive. Score: 100", "Say negative, neutral or positive."),
        ("Answer in the form: Letter. Score: 0 to 100", "Answer in the form: Letter. Score: 0 to 100"),
        ("Use this form:\nAnswer: <letter>\nScore: <0-100>", "Use this form:\nAnswer: <letter>\nScore: <0-100>"),
    ],
)
def test_the_instruction_is_taken_out_of_what_is_around_it(reply: str, text: str) -> None:
    assert unwrap(reply) == text


@given(st.text(max_size=200))
def test_unwrapping_settles_and_the_guard_copes_with_any_text(reply: str) -> None:
    text = unwrap(reply)
    assert text == text.strip()
    GUARD.reject(text, set())
    assert cut_back(text) == cut_back(cut_back(text))


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Read the note. Then decide whe", "Read the note."),
        ("Reply with A, B, C or D. Do not", "Reply with A, B, C or D."),
        ('Say "yes." Otherwise say', 'Say "yes."'),
        ("Rate it from 1 to 5. Then", "Rate it from 1 to 5."),
        ("1. Read it.\n2. Choose the", "1. Read it."),
        ("Steps:\n1. Read\n2. Cho", ""),
        ("Options: A. Heart B. Lun", ""),
        ("Use one letter, e.g. A or", ""),
        ("You are a helpful assistant that", ""),
        ("请用字母回答。然后", "请用字母回答。"),
    ],
)
def test_a_text_that_breaks_off_is_cut_back_to_its_last_complete_sentence(text: str, whole: str) -> None:
    assert cut_back(text) == whole


def test_only_the_closing_mark_says_that_a_reply_is_complete() -> None:
    assert is_closed("<INS>Answer</ins>") and not is_closed("<INS>Answer")
