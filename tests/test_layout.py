import pytest

from lossmask.errors import InputError
from lossmask.layout import COLUMNS, FORMATS, Layout, nearest_name


def test_a_layout_from_a_mapping_is_the_layout_from_keywords() -> None:
    values = {"format": "alpaca", "columns": {"output": "answer"}, "input_separator": "\n"}
    assert Layout.from_mapping(values) == Layout(
        format="alpaca", columns={"output": "answer"}, input_separator="\n"
    )
    assert Layout.from_mapping(Layout(format="text").to_mapping()) == Layout(format="text")


def test_a_list_of_markers_becomes_a_tuple() -> None:
    layout = Layout.from_mapping({"response_template": ["### A:", "### B:"]})
    assert layout.response_template == ("### A:", "### B:")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "sharegtp"}, "unknown format 'sharegtp'; did you mean 'sharegpt'"),
        ({"columns": {"outptu": "x"}}, "unknown column 'outptu'; did you mean 'output'"),
        ({"roles": {"customer": "usr"}}, "unknown role 'usr'; did you mean 'user'"),
        ({"message_keys": {"text": "x"}}, "unknown message key 'text'; known: role, content"),
        ({"columns": ["text"]}, r"'columns' must map names to names, got \['text'\]"),
        ({"roles": {"customer": 3}}, "'roles' must map names to names"),
        ({"colums": {}}, "unknown key 'colums'; did you mean 'columns'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Layout.from_mapping(values)


def test_nothing_near_is_no_hint() -> None:
    assert nearest_name("zzz", FORMATS) == ""
    assert len(set(COLUMNS)) == len(COLUMNS)
