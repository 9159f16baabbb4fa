"""Files of real order flow: what is none is refused by its line, before anything is asked of the engine."""

from pathlib import Path

import pytest

from cli.lobster import LEVELS, Flow, FlowError, read_book_rows, read_messages
from cli.replay import ReplayOptions, all_steps

GOOD = "34200.1,1,11,18,5853300,1"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "not time, type"),
        ("a,b", "not time, type"),
        ("34200.1,1,11,18,5853300", "not time, type"),
        ("34200.1,1,11,18,5853300,1,9", "not time, type"),
        ("34200.1,one,11,18,5853300,1", "not time, type"),
        ("34200.1,1,x,18,5853300,1", "not time, type"),
        ("34200.1,1,11,18,5853300,0", "a side is 1 or -1"),
        ("34200.1,1,11,-18,5853300,1", "not negative"),
        ("34200.1,1,11,18,-1,1", "not negative"),
    ],
)
def test_a_line_that_is_no_message_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "flow.csv"
    path.write_text(f"{GOOD}\n{line}\n", encoding="ascii")
    with pytest.raises(FlowError, match=rf"flow\.csv:2: .*{says}"):
        list(read_messages(path))


def test_a_halt_has_no_price(tmp_path: Path) -> None:
    path = tmp_path / "flow.csv"
    path.write_text("34200.1,7,0,0,-1,-1\n", encoding="ascii")
    assert [message.kind for message in read_messages(path)] == [7]


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flow.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FlowError, match="no CSV file in ASCII"):
        list(read_messages(path))


@pytest.mark.parametrize("row", ["1,2,3", ",".join(["x"] * 4 * LEVELS)])
def test_a_row_that_is_no_book_is_named(tmp_path: Path, row: str) -> None:
    path = tmp_path / "book.csv"
    path.write_text(f"{row}\n", encoding="ascii")
    with pytest.raises(FlowError, match=r"book\.csv:1: not"):
        list(read_book_rows(path))


def test_a_book_file_has_a_book(tmp_path: Path) -> None:
    file, book = tmp_path / "flow.csv", tmp_path / "book.csv"
    file.write_text(f"{GOOD}\n", encoding="ascii")
    book.touch()
    options = ReplayOptions(file=file, book=book, symbol="AAPL/USD", limit=None, run_id="x")
    with pytest.raises(FlowError, match="no book in it"):
        list(all_steps(options, Flow("AAPL/USD", "x")))
