"""Labels and numbers: what is taken, and how an answer is read."""

import pytest

from regraft.answers import Labels, Numbers, Said, answers_of, in_words, number, written

LABELS = Labels(("bad", "good"))


def test_a_label_is_one_of_the_names() -> None:
    assert LABELS.accept("good") == "good"
    with pytest.raises(ValueError, match="unknown label 'fair'; the task has bad, good"):
        LABELS.accept("fair")


@pytest.mark.parametrize(
    ("given", "text"), [(3, "3"), (3.0, "3"), ("3.50", "3.5"), (" -1e3 ", "-1000"), (0.1, "0.1"), ("1e-07", "1e-07")]
)
def test_a_number_has_one_text(given: object, text: str) -> None:
    assert Numbers().accept(given) == text
    assert float(text) == float(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "is no number"),
        ("three", "'three' is no number"),
        ("1_000", "is no number"),
        (True, "is no number"),
        (None, "is no number"),
        (10**400, "is no number"),
        ("nan", "is no finite number"),
        ("-inf", "is no finite number"),
        (float("inf"), "is no finite number"),
        (-4.5, "-4.5 is less than the minimum, -4"),
        ("5", "5 is more than the maximum, 4"),
    ],
)
def test_what_is_no_number_in_range_says_why(given: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Numbers(minimum=-4, maximum=4).accept(given)


def test_a_row_of_the_graph_is_read_by_kind() -> None:
    assert LABELS.said([0.2, 0.8]) == Said("good", 0.8, (0.2, 0.8), None)
    assert Numbers().said([1.5, 1.0, 2.0, 0.25]) == Said("1.5", 0.25, (), (1.0, 2.0))


def test_answers_are_those_of_the_kind() -> None:
    assert answers_of("classification", ["bad", "good"], None) == LABELS
    assert answers_of("regression", (), None) == Numbers()
    assert answers_of("regression", (), Numbers(minimum=0)).as_task()["range"] == Numbers(minimum=0)
    assert answers_of("classification", LABELS.as_task()["labels"], None) == LABELS


def test_a_number_in_words_is_read_as_the_same() -> None:
    assert [in_words(one) for one in (2.0, 0.30000000000000004, 1e22)] == ["2", "0.30000000000000004", "1e+22"]


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.00123, "0.00123"), (0.5, "0.5"), (999.4, "999"), (999.7, "1,000"), (-1234.5, "-1,234"), (251300, "251,300")],
)
def test_people_get_three_digits_or_all_before_the_point(value: float, said: str) -> None:
    assert number(value) == said
    assert number(abs(value), "+") == f"+{said.removeprefix('-')}"


def test_errors_are_written_in_their_unit_and_shares_with_three_decimals() -> None:
    assert [written(0.0012, name) for name in ("mae", "rmse", "r2", "accuracy")] == [
        "0.0012", "0.0012", "0.001", "0.001"
    ]  # fmt: skip
    assert written(0.25, "accuracy", "+") == "+0.250"
