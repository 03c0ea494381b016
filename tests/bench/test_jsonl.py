"""Files of JSON Lines: what was appended comes back, what is not valid is refused, what was cut short is left out."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from twinvae.bench.jsonl import JsonLines


class One(BaseModel):
    name: str
    note: str | None = None


@pytest.fixture
def lines(tmp_path) -> JsonLines[One]:
    return JsonLines(tmp_path / "deep" / "ones.jsonl", One, "count again")


def test_what_is_written_and_appended_comes_back_and_nothing_where_there_is_no_file(lines):
    assert lines.read() == []
    lines.append(One(name="a"))
    lines.append(One(name="b"))
    assert lines.read() == [One(name="a"), One(name="b")]
    lines.write([One(name="c")], exclude_none=True)
    assert lines.path.read_text() == '{"name":"c"}\n'


@pytest.mark.parametrize("text", ['{"name":"a"}\n{"nome":"b"}\n{"name":"c"}\n', '{"name":"a"}\n{"name":\n'])
def test_a_line_that_is_not_valid_is_refused_by_its_number_with_what_to_do(text, lines):
    lines.write([])
    lines.path.write_text(text)
    with pytest.raises(ValueError, match=r"ones\.jsonl, line 2: .*; count again"):
        lines.read()


def test_a_last_line_cut_short_is_left_out_where_lines_are_appended_and_refused_elsewhere(lines):
    lines.append(One(name="a"))
    assert (lines.read(), lines.cut) == ([One(name="a")], 0)
    with lines.path.open("a") as file:
        file.write('{"nam')
    assert (lines.read(), lines.cut) == ([One(name="a")], 2)
    with pytest.raises(ValueError, match="line 2"):
        JsonLines(lines.path, One, "restore it", appended=False).read()
