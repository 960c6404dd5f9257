"""Options made from pydantic models."""

import argparse
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, model_validator

from arrag.cli.options import add_model_options, model_from_args
from arrag.config.base import FilePath, Model
from arrag.config.benchmarks import CmmdSettings, FidSettings, FwdSettings
from arrag.utils.errors import UsageError


class Inner(Model):
    x: int = 0


class Settings(Model):
    images: FilePath = Field(description="what is read")
    learning_rate: float = Field(default=2e-4, gt=0, description="step size")
    level: int | None = Field(default=None, ge=1, description="100% optional")
    hops: list[int] = Field(default=[1, 2], min_length=1)
    mode: Literal["clean", "legacy"] = "clean"
    head: bool = True
    fast: bool = False
    inner: Inner = Inner()

    @model_validator(mode="after")
    def _fits(self):
        if self.fast and self.mode == "legacy":
            raise ValueError("mode legacy is never fast; leave one out")
        return self


def parse(*words, model=Settings, **options):
    parser = argparse.ArgumentParser()
    add_model_options(parser, model, **({"exclude": ["inner"]} | options))
    return model_from_args(model, parser.parse_args(words)), parser


def test_options_have_the_types_and_defaults_of_the_fields():
    found, parser = parse("--images", "a b")
    assert found == Settings(images=Path("a b")) and found.model_fields_set == {"images"}
    found, _ = parse(
        "--images", "x", "--learning-rate", "1e-3", "--level", "3", "--hops", "2", "3",
        "--mode", "legacy", "--no-head",
    )  # fmt: skip
    assert found == Settings(
        images=Path("x"), learning_rate=1e-3, level=3, hops=[2, 3], mode="legacy", head=False
    )
    text = parser.format_help()
    assert "step size (default: 0.0002)" in text and "100% optional" in text
    assert "(default: 1 2)" in text and "{clean,legacy}" in text


@pytest.mark.parametrize(
    "words",
    [
        ("--images", "x", "--learning-rate", "0"),
        ("--images", "x", "--level", "1.5"),
        ("--images", "x", "--mode", "other"),
        ("--learning-rate", "1"),
    ],
)
def test_invalid_values_end_in_usage(capsys, words):
    with pytest.raises(SystemExit) as ended:
        parse(*words)
    assert ended.value.code == 2 and capsys.readouterr().err.startswith("usage:")


def test_values_that_do_not_fit_together_are_an_error():
    with pytest.raises(UsageError) as error:
        parse("--images", "x", "--fast", "--mode", "legacy")
    assert error.value.hint == "leave one out"


def test_a_positional_field_and_one_given_from_elsewhere():
    found, _ = parse("x", positional=["images"])
    assert found.images == Path("x")
    namespace = argparse.Namespace(other=1)
    assert model_from_args(Settings, namespace, images=Path("y")).images == Path("y")


def test_a_nested_model_must_be_excluded():
    with pytest.raises(TypeError, match="inner"):
        add_model_options(argparse.ArgumentParser(), Settings)


@pytest.mark.parametrize("model", [FidSettings, CmmdSettings, FwdSettings])
def test_metrics_have_options(model):
    assert parse(model=model, exclude=())[0] == model()
    assert parse("--size", "8", model=FwdSettings, exclude=())[0].size == 8
