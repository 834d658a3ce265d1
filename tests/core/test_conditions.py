"""What two pieces of work depend on is compared by dotted names, in one wording."""

import pytest

from visrl_data.core.conditions import check_same, differences
from visrl_data.core.errors import VisRLError

OLD = {"seed": 0, "actor": {"device": "cpu", "digest": "a"}, "columns": {}, "revision": None}


def test_equal_conditions_pass_and_nothing_is_the_same_as_null():
    check_same("runs/a", OLD, {"seed": 0, "actor": {"device": "cpu", "digest": "a"}})


def test_each_difference_is_listed_by_its_dotted_name():
    new = {"seed": 1, "actor": {"device": "cuda", "digest": "a"}, "columns": {"id": "key"}, "revision": "v2"}
    with pytest.raises(VisRLError) as raised:
        check_same("runs/a", OLD, new, "Do that.")
    assert str(raised.value).splitlines() == [
        "runs/a started with different options:",
        "  actor.device: cpu -> cuda",
        "  columns.id: unset -> key",
        "  revision: unset -> v2",
        "  seed: 0 -> 1",
        "Do that.",
    ]


def test_ignored_names_may_differ():
    new = {"seed": 0, "actor": {"device": "cuda", "digest": "a"}}
    assert differences(OLD, new, {"actor.device"}) == differences(OLD, new, {"actor"}) == {}
    assert differences(OLD, new, {"device"}) == {"actor.device": "cpu -> cuda"}


def test_tuples_equal_the_lists_that_json_makes_of_them():
    assert differences({"crop": (1, 2)}, {"crop": [1, 2]}) == {}


def test_long_values_are_cut():
    [change] = differences({"prompt": "a"}, {"prompt": "b\n" * 500}).values()
    assert change.startswith("a -> b b b") and change.endswith("...") and len(change) < 200
