"""Rows: every kind of file, and a malformed row named by its place."""

import gzip

import pytest

from workbench.errors import InputError
from workbench.prompts.rows import Malformed, find, make, read_rows


def values(file):
    return [row.values for row in read_rows(file)]


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    lines = '{"a": "1", "b": "x, y"}\n\n{"a": "2", "b": "\u2028"}\n'
    files = {
        "x.jsonl": lines.encode(),
        "x.jsonl.gz": gzip.compress(lines.encode()),
        "lines.json": lines.encode(),
        "list.json": b'[{"a": "1", "b": "x, y"}, {"a": "2", "b": "\\u2028"}]',
        "examples.json": b'{"name": "n",\n "examples": [{"a": "1", "b": "x, y"}, {"a": "2", "b": "\\u2028"}]}',
        "x.csv": 'a,b\n1,"x, y"\n2,\u2028\n'.encode("utf-8-sig"),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert values(tmp_path / name) == [{"a": "1", "b": "x, y"}, {"a": "2", "b": "\u2028"}], name


def test_a_malformed_row_is_named_with_its_line(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text('{"a": 1}\n\n{"b": 2}\nnonsense\n[3]\n')
    rows = list(read_rows(file))
    assert [row.where for row in rows] == [f"data.jsonl, line {n}" for n in (1, 3, 4, 5)]
    with pytest.raises(InputError, match="line 3 is malformed: lacks 'a'"):
        make(rows, lambda row: row["a"], skip=False)
    with pytest.raises(InputError, match="line 4 is malformed: is no JSON"):
        make(rows[2:], lambda row: row["a"], skip=False)
    assert make(rows, lambda row: row["a"], skip=True) == [1]


def test_lines_of_csv_are_counted_through_line_breaks_in_cells(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text('a,b\n"two\nlines",1\nx,bad\n')

    def number(row):
        return int(row["b"])

    with pytest.raises(InputError, match=r"data.csv, line 4 is malformed: invalid literal"):
        make(read_rows(file), number, skip=False)


def test_a_makers_own_words_are_shown():
    from workbench.prompts.rows import Row

    def refuse(row):
        raise Malformed("it has no answer.")

    with pytest.raises(InputError, match=r"x, line 1 is malformed: it has no answer\. .*skip_malformed=True"):
        make([Row("x, line 1", {"a": 1})], refuse, skip=False)


def test_a_missing_file_says_what_is_there(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "other.txt").touch()
    with pytest.raises(InputError, match=r"No test.jsonl in gsm8k/, which holds other.txt"):
        find(tmp_path / "gsm8k", ("test.jsonl",))
    with pytest.raises(InputError, match="which does not exist"):
        find(tmp_path / "aqua", ("test.json",))


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "x.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "x.json").write_text('[{"a": 1},')
    for name in ("x.jsonl.gz", "x.json"):
        with pytest.raises(InputError, match="The file is damaged"):
            list(read_rows(tmp_path / name))
