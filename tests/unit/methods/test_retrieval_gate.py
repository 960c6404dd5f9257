"""Recorded answers about which images need a reference."""

import json

import pytest

from arrag.config.generators import Always, Recorded
from arrag.methods.retrieval_gate import RecordedAnswers, open_gate
from arrag.utils.errors import FormatError, MissingError


def test_missing_answers_are_found_before_anything_is_generated(tmp_path):
    file = tmp_path / "a.jsonl"
    lines = [{"prompt": "one", "caption": None}, {"prompt": "two", "sample": 0, "caption": "x"}]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    gate = open_gate(Recorded(kind="recorded", name="some model", answers=file))
    gate.check_prompts(["one"], 4)
    gate.check_prompts(["one", "two"], 1)
    assert gate.caption("one", 3) is None and gate.caption("two", 0) == "x"
    assert gate.captions("two") == {"x"}
    with pytest.raises(MissingError) as error:
        gate.check_prompts(["one", "two"], 2)
    assert error.value.path == file and "'two'" in str(error.value) and error.value.hint
    with pytest.raises(MissingError):
        gate.caption("two", 1)
    assert gate.label == "recorded answers of some model" and len(gate.digest) == 64
    always = open_gate(Always(kind="always"))
    always.check_prompts(["anything"], 4)
    assert always.caption("anything", 0) == "anything" and always.digest is None


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("{", "line 2"),
        ("[]", "line 2"),
        ('{"prompt": "a", "caption": null, "id": 1}', "line 2.id"),
        ('{"prompt": "a"}', "line 2.caption"),
        ('{"prompt": "a", "caption": " "}', "line 2.caption"),
        ('{"prompt": "a", "sample": -1, "caption": "b"}', "line 2.sample"),
        ('{"prompt": "a", "sample": true, "caption": "b"}', "line 2.sample"),
        ('{"caption": "b"}', "line 2.prompt"),
        ('{"prompt": "one", "caption": "b"}', "line 2"),  # a second answer
    ],
)
def test_a_malformed_answer_is_named_by_its_line(tmp_path, line, field):
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "one", "caption": null}\n' + line + "\n")
    with pytest.raises(FormatError) as error:
        RecordedAnswers(file, "some model")
    assert (error.value.path, error.value.field) == (file, field) and error.value.hint
    assert "\n" not in str(error.value)
