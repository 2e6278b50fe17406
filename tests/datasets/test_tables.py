import re

import pytest

from sam_bloodcell.datasets.tables import read_table


@pytest.fixture
def written(tmp_path):
    def write(content, name="cells.csv"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / name

    return write


def test_text_stays_text(written):
    csv = written("\ufeffpath,label,group,accession\n1.png,NA,007,20230114000123457\n2.png,None,1E5,\n")
    table = read_table(csv, ["path"])
    assert table["label"].tolist() == ["NA", "None"]
    assert table["group"].tolist() == ["007", "1E5"]
    assert table["accession"].tolist() == ["20230114000123457", ""]
    assert table["path"].tolist() == [str(csv.with_name("1.png")), str(csv.with_name("2.png"))]


def test_masks_are_relative_to_the_table_too(written, tmp_path):
    csv = written("path,mask\n1.png,\n../2.png,2_mask.png\n")
    with pytest.raises(ValueError, match=r"row 1: '.*' leads out of the folder"):
        read_table(csv, ["path"])
    table = read_table(csv, ["path"], root=tmp_path.parent)
    assert table["mask"].tolist() == ["", str(tmp_path / "2_mask.png")]
    assert read_table(csv)["path"].tolist() == ["1.png", "../2.png"], "a table that is not of images"


def test_tabs_comments_and_trailing_separators(written):
    assert read_table(written("a\tb\n1\t2\n", "cells.TSV"), ["a", "b"])["b"].tolist() == ["2"]
    assert read_table(written("# ours\na,b\n1,2\n"), ["b"], comment="#")["b"].tolist() == ["2"]
    assert read_table(written("a,b\n1,2,\n3,,\n"))["b"].tolist() == ["2", ""]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sep=;\r\npath;label\r\n1.png;lym\r\n", "begins with Excel's line 'sep=;'. Fix: remove that line"),
        ("sep=,\npath,label\n1.png,lym\n", "begins with Excel's line 'sep=,'"),
        (
            "path,label\n1.png,lym\n".encode("utf-16"),
            "is not a readable CSV: line 1 is not UTF-8. Fix: save it as UTF-8",
        ),
        (
            "path,label\n1.png,lym\n".encode("utf-16-le"),
            "is not a readable CSV: line 1 contains a NUL byte. Fix: save it",
        ),
        ("path,label\n1.png,ly\0m\n", "is not a readable CSV: line 2 contains a NUL byte"),
        ("path,label,label\n1.png,lym,mon\n", "has the column 'label' twice. Fix: rename or remove"),
        ("Path,label\n1.png,lym\n", r"lacks the column\(s\) path; .*Fix: .* Write path, not 'Path'\."),
        ("path, label\n1.png, lym\n", r"lacks the column\(s\) label; .*Fix: .* Write label, not ' label'\."),
        ('path,label\n1.png,"lym\n2.png,"mon\n', "row 0: label continues on the next line. Fix: close the quotation"),
        ("path,label\n1.png,lym\n2.png,mon,\n", ".*line 3.*Fix: .*remove commas at the ends of rows"),
    ],
)
def test_the_habits_of_spreadsheets_get_a_hint(written, content, message):
    csv = written(content)
    with pytest.raises(ValueError, match=f"^'{re.escape(str(csv))}' {message}"):
        read_table(csv, ["path", "label"])


def test_quoted_lines_blank_lines_short_rows_and_long_values(written):
    long = "x" * 300_000
    table = read_table(
        written(f'path,label,note\n1.png,lym,"a\r\nb"\n\n2.png,mon\n3.png,lym,{long}\n'), ["path", "label"]
    )
    assert table["note"].tolist() == ["a\r\nb", "", long]
    assert table["label"].tolist() == ["lym", "mon", "lym"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a readable CSV: No columns"),
        ("path,label\n", "has a header but no rows. Fix: add a row"),
        (
            "path,label\n1.png,lym\n2.png,cél\n".encode("cp1252"),
            "is not a readable CSV: line 3 is not UTF-8. Fix: save it",
        ),
        ("path,label\n1.png,lym,x\n", "is not a readable CSV: its rows have more values"),
        ("path,label\n1.png,lym\n2.png,lym,x\n", "is not a readable CSV: .*line 3"),
        ("path,lab\n1.png,a\n", r"lacks the column\(s\) label; it has path, lab. Fix: name its columns path, label"),
        ("path;label\n1.png;lym\n", ".*Fix: name its columns path, label. Separate them with commas, not semicolons"),
        ("path\tlabel\n1.png\tlym\n", ".*Fix: name its columns path, label. Separate them with commas, not tabs"),
        ("path,label\n1.png,lym\n ,lym\n", "row 1: path is empty. Fix: fill it in"),
    ],
)
def test_what_is_no_such_table_is_named(written, content, message):
    csv = written(content)
    with pytest.raises(ValueError, match=f"^'{re.escape(str(csv))}' {message}"):
        read_table(csv, ["path", "label"])


def test_a_missing_table(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        read_table(tmp_path / "nowhere.csv")


def test_a_quotation_mark_that_swallows_a_row_is_found_in_any_column(tmp_path):
    (tmp_path / "cells.csv").write_text('path,domain,label,group\n1.png,a,x,"p1\n2.png,b,y,p2"\n')
    with pytest.raises(ValueError, match=r"row 0: group continues on the next line. Fix: close the quotation mark"):
        read_table(tmp_path / "cells.csv", ("path",))


def test_a_note_of_several_lines_is_kept(tmp_path):
    (tmp_path / "cells.csv").write_text('path,note,label\n1.png,"blurred\nin one corner",x\n')
    assert read_table(tmp_path / "cells.csv", ("path",))["note"].tolist() == ["blurred\nin one corner"]
