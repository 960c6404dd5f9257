"""Reports read back from their Markdown are the pages they were made of."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrag.report.read_markdown import parse, read_page
from arrag.report.render import Block, Cell, Page, markdown
from arrag.utils.errors import ArragError

# One line, as every text of a table is; the specials of Markdown more often than chance has them.
TEXT = st.text(
    st.sampled_from("\\`*_|<>[]#~ -abr/\u2212é") | st.characters(exclude_categories=["C", "Z"]),
    min_size=1,
    max_size=12,
).map(lambda text: f"x{text}x")
CELLS = st.builds(Cell, TEXT, st.one_of(st.just(""), TEXT), st.booleans())


@st.composite
def blocks(draw):
    width = draw(st.integers(1, 4))
    header = draw(st.lists(TEXT, min_size=width, max_size=width))
    rows = draw(st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=3))
    return Block(draw(TEXT), header, rows, draw(st.lists(TEXT, min_size=1, max_size=2)))


PAGES = st.builds(
    Page, TEXT, TEXT, st.lists(blocks(), min_size=1, max_size=3), st.lists(TEXT, max_size=2)
)


@given(PAGES)
def test_round_trip(page):
    assert parse(markdown(page)) == page


def test_the_shipped_table_keeps_every_byte(root):
    path = root / "reports/table1.md"
    page = read_page(path)
    assert page.title == "Table 1: GenEval" and len(page.blocks) == 4
    assert markdown(page) == path.read_text()


def test_other_files_are_refused(tmp_path):
    path = Path(tmp_path / "table4.md")
    for text, what in (
        ("", "found ''"),
        ("# A\n\nprose", "found 'prose'"),
        ("> head", "it has no title"),
        (
            "# A\n\n## B\n\n| a | b |\n| :-- | :-: |\n| 1 |",
            "the rows under 'B' have unequal lengths",
        ),
    ):
        path.write_text(text)
        with pytest.raises(ArragError, match=rf"table4\.md: not a table of this project \({what}"):
            read_page(path)
    with pytest.raises(ArragError, match="not a table"):
        read_page(tmp_path / "absent.md")
