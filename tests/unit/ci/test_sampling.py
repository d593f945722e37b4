"""What `sampled` leaves to make test-all."""

from pathlib import Path

import pytest

from tests.conftest import TESTS, pytest_collection_modifyitems


class Item:
    """What pytest collects, as far as the hook looks at it."""

    def __init__(self, name: str, *marks: pytest.MarkDecorator):
        self.nodeid, self.path, self.marks = f"tests/unit/test_a.py::{name}", TESTS / "unit" / "test_a.py", list(marks)

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return next((mark.mark for mark in self.marks if mark.name == name), None)

    def add_marker(self, mark: pytest.MarkDecorator) -> None:
        self.marks.append(mark)

    @property
    def slow(self) -> bool:
        return self.get_closest_marker("slow") is not None


def collected(items: list[Item]) -> list[Item]:
    hook = pytest_collection_modifyitems(items)
    next(hook)
    with pytest.raises(StopIteration):
        hook.send(None)
    return items


def test_every_nth_value_of_each_test_is_for_make_test():
    third = pytest.mark.sampled(3)
    items = collected([Item(f"{test}[{value}]", third) for test in ("test_a", "test_b") for value in range(7)])
    assert [item.slow for item in items] == 2 * [False, True, True, False, True, True, False]


def test_others_stay_as_they_are():
    items = collected([Item("test_a[1]"), Item("test_a[2]"), Item("test_b", pytest.mark.slow)])
    assert [item.slow for item in items] == [False, False, True]


def test_the_folder_whose_files_take_longest_comes_first():
    items = [Item("test_a"), Item("test_b"), Item("test_c")]
    for item, folder in zip(items, ("unit", "e2e", "integration"), strict=True):
        item.path = Path(TESTS) / folder / "test_a.py"
    assert [item.path.parent.name for item in collected(items)] == ["e2e", "integration", "unit"]
