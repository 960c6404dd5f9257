"""Formatting of numbers, and escaping in Markdown and LaTeX."""

import re

import pytest

from arrag.metrics.bootstrap import Estimate
from arrag.report.model import Block, Cell, Page
from arrag.report.render import interval_cell, latex, markdown, number_text, read_frame
from arrag.utils.errors import FormatError

NASTY = "a|b *c* _d_ <e> 100% & $x$ #1 {y} ~z ^w \\q [r] `s` {{ t }} {% u %}\nv"
PAGE = Page(
    NASTY, NASTY, [Block(NASTY, ["x", "y"], [[Cell(NASTY), Cell("1", "[2]")]], [NASTY])], [NASTY]
)


def test_markdown_escapes_what_would_be_markup():
    text = markdown(PAGE)
    row = next(line for line in text.splitlines() if line.startswith("| a"))
    assert re.split(r"(?<!\\)\|", row)[2].strip() == r"1<br><sub>\[2\]</sub>"
    assert r"a\|b \*c\* \_d\_ \<e\>" in row and r"\\q \[r\] \`s\`" in row
    assert "{{ t }} {% u %} v" in row
    kinds = [line[:2] for line in text.splitlines() if line]
    assert kinds == ["# ", "> ", "##", "| ", "| ", "| ", "- ", "- "]


def test_latex_escapes_what_would_be_markup():
    text = latex(PAGE)
    assert r"a|b *c* \_d\_ $<$e$>$ 100\% \& \$x\$ \#1 \{y\}" in text
    assert r"\textasciitilde{}z \textasciicircum{}w \textbackslash{}q {[}r{]}" in text
    assert r"\shortstack{1\\{\tiny {[}2{]}}}" in text  # a bare [ after \\ is an argument


@pytest.mark.parametrize(
    ("number", "digits", "sign", "text"),
    [
        (0.71549, 3, False, "0.715"),
        (-0.0211, 3, True, "\u22120.021"),
        (0.0211, 3, True, "+0.021"),
        (-0.0001, 3, True, "0.000"),
        (None, 2, False, "\u2013"),
        (float("nan"), 2, False, "\u2013"),
    ],
)
def test_number_text(number, digits, sign, text):
    assert number_text(number, digits, sign) == text


def test_interval_cell():
    assert interval_cell(None) == Cell("\u2013")
    assert interval_cell(Estimate(0.5, float("nan"), float("nan")), 1) == Cell("0.5")
    cell = interval_cell(Estimate(0.5, 0.25, 0.75), 2, sign=True, strong=None)
    assert cell == Cell("+0.50", "[+0.25,\u00a0+0.75]", True)
    assert not interval_cell(Estimate(0.5, -0.5, 0.75), strong=None).strong


def test_a_csv_that_is_no_table_is_refused(tmp_path):
    path = tmp_path / "ablation_x.csv"
    for text in ("a,b\n1\n", "", 'a\n"b', "value\nx\n"):
        path.write_text(text)
        with pytest.raises(FormatError) as raised:
            read_frame(path)
        assert raised.value.path == path and raised.value.hint is not None
