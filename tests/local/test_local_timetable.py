"""The heap behind every timeout."""

from hypothesis import given
from hypothesis import strategies as st

from tracebaton.local.timetable import Alarms, Timetable

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 9), st.integers(0, 20)),
        st.tuples(st.just("discard"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("pop"), st.just(0), st.integers(0, 20)),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_behaves_like_a_sorted_list(actions):
    """Whatever is set, moved and taken out, the earliest comes first, ties in order of setting."""
    table: Timetable[int] = Timetable()
    model: dict[int, tuple[int, int]] = {}
    for turn, (action, key, time) in enumerate(actions):
        if action == "set":
            table.set(key, time)
            model[key] = (time, turn)
        elif action == "discard":
            assert table.discard(key) == (model.pop(key, None) is not None)
        else:
            due = [(when, name) for name, when in model.items() if when[0] <= time]
            expected = min(due)[1] if due else None
            model.pop(expected, None)
            assert table.pop(time) == expected
        assert (len(table), key in table) == (len(model), key in model)
        assert table.due() == (min(model.values())[0] if model else None)


def test_forgets_what_was_taken_out():
    """A long timeout that is moved or cancelled again and again does not pile up."""
    table: Timetable[object] = Timetable()
    for due in range(10_000):
        table.set("moved", due)
        table.set(due, 43_200)
        table.discard(due)

    assert len(table) == 1
    assert len(table._heap) < 100


def test_alarms_ring_once_and_in_order():
    """What is due is called, what an alarm sets to now as well, the rest stays."""
    alarms = Alarms()
    rung: list[str] = []

    def first() -> None:
        rung.append("first")
        alarms.set(third, 2)

    def second() -> None:
        rung.append("second")

    def third() -> None:
        rung.append("third")

    alarms.set(second, 2)
    alarms.set(first, 1)
    alarms.set(lambda: rung.append("later"), 3)
    alarms.ring(2)
    alarms.ring(2)

    assert rung == ["first", "second", "third"]
    assert alarms.due() == 3
