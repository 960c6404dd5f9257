"""A backbone of another module, named in a configuration."""

import numpy as np
import pytest

from arrag.config.generators import OwnBackbone
from arrag.methods.generator import TokenGenerator
from arrag.utils.errors import UnknownNameError, UsageError

MODULE = """
from arrag.backbones.janus import JanusBackbone
from arrag.backbones.registry import register_backbone


@register_backbone("janus-of-mine")
class MyBackbone(JanusBackbone):
    pass
"""


def settings(checkpoint, **changed):
    given = {"kind": "own", "name": "janus-of-mine", "module": "my_backbones"}
    given |= {"checkpoint": checkpoint, "guidance_scale": 2.0, "dtype": "float64"}
    return OwnBackbone(**given | changed)


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_backbones.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def test_it_generates_what_the_same_class_generates(module, tiny_janus):
    from arrag.config.generators import Janus

    own = TokenGenerator.load(settings(tiny_janus))
    built_in = TokenGenerator.load(
        Janus(kind="janus", checkpoint=tiny_janus, guidance_scale=2.0, dtype="float64")
    )
    images = [found.generate(["a photo of a dog"], [0], 0) for found in (own, built_in)]
    assert np.array_equal(*images)


def test_further_keys_are_arguments_of_the_loop(module, tiny_janus):
    greedy = TokenGenerator.load(settings(tiny_janus, top_k=1))
    images = [greedy.generate(["a photo of a dog"], [sample], 0) for sample in (0, 1)]
    assert np.array_equal(*images)


def test_unknown_modules_and_names_are_refused(module, tiny_janus):
    with pytest.raises(UsageError) as found:
        TokenGenerator.load(settings(tiny_janus, module="my_missing_module"))
    assert found.value.field == "module" and found.value.hint
    with pytest.raises(UnknownNameError) as unknown:
        TokenGenerator.load(settings(tiny_janus, name="janus-of-mind"))
    assert "janus-of-mine" in unknown.value.hint
