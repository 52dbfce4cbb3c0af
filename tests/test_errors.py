"""The tree of exceptions: what it draws is what it is."""

import inspect
import math
import pickle
import re

import pytest

from tracebaton import errors
from tracebaton.errors import Reject, RetryLater, TracebatonError, default_detail


def tree() -> list[type[TracebatonError]]:
    """Return every class of the module."""
    return [
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, TracebatonError)
    ]


def drawn() -> list[tuple[str, str | None, str, int]]:
    """Return name, parent, code and status of each line that the docstring draws."""
    line = re.compile(r"^ {4}((?:[│ ] {3})*)([├└]── )?(\w+) +(\w+) +(\d{3})$")
    found, path = [], []
    for text in inspect.cleandoc(errors.__doc__ or "").splitlines():
        if match := line.match(text):
            depth = len(match[1]) // 4 + bool(match[2])
            path[depth:] = [match[3]]
            parent = path[depth - 1] if depth else None
            found.append((match[3], parent, match[4], int(match[5])))
    return found


def test_the_drawing_is_the_tree() -> None:
    """Every class with its parent, its code and its status, nothing else."""
    real = [
        (cls.__name__, None if cls is TracebatonError else cls.__mro__[1].__name__, cls.code)
        for cls in tree()
    ]

    assert sorted(drawn()) == sorted(
        (name, parent, code, getattr(errors, name).status) for name, parent, code in real
    )


def test_every_class_is_public() -> None:
    """What can be raised can be caught by name."""

    assert sorted(errors.__all__) == errors.__all__
    assert set(errors.__all__) == {cls.__name__ for cls in tree()}


def test_codes_are_unique_and_stable_names() -> None:
    """A machine may branch on them."""
    codes = [cls.code for cls in tree()]

    assert len(set(codes)) == len(codes)
    assert [code for code in codes if not re.fullmatch(r"[a-z]+(_[a-z]+)*", code)] == []


@pytest.mark.parametrize("cls", tree(), ids=lambda cls: cls.__name__)
def test_the_docstring_is_a_sentence_for_the_user(cls: type[TracebatonError]) -> None:
    """It is the default message."""
    error = cls()

    assert error.detail == default_detail(cls) == str(error)
    assert re.fullmatch(r"[A-Z].+[.:].*", error.detail)
    assert "\n" not in error.detail


def test_a_detail_replaces_the_default() -> None:
    """With what goes with it."""
    error = TracebatonError(
        "Disk full.", retry_after=3, errors=[{"pointer": "/a"}], headers={"Allow": "GET"}
    )

    assert (str(error), error.detail, error.retry_after) == ("Disk full.", "Disk full.", 3)
    assert (error.errors, error.headers) == (({"pointer": "/a"},), {"Allow": "GET"})


def test_a_class_without_docstring_falls_back_to_its_title() -> None:
    """A subclass of somebody else's has a message all the same."""

    class Bare(TracebatonError):
        title = "Bare"

    Bare.__doc__ = None

    assert Bare().detail == "Bare"


def test_retry_later_and_reject_carry_what_a_handler_says() -> None:
    """The delay, and a code of the handler's own."""
    later, rejected = RetryLater(30, "The model is busy."), Reject("No credit.", code="credit")

    assert (later.delay, later.retry_after, later.detail) == (30, 30, "The model is busy.")
    assert (rejected.detail, rejected.reason_code) == ("No credit.", "credit")
    assert Reject().reason_code == "rejected"


def test_retry_later_is_never_later_than_sqs_can() -> None:
    """An infinite delay is 12 hours; what is no number is the handler's own mistake."""
    assert (RetryLater(math.inf).delay, RetryLater(86_400).retry_after) == (43_200, 43_200)
    with pytest.raises(ValueError, match="not a number"):
        RetryLater(math.nan)


@pytest.mark.parametrize("cls", tree(), ids=lambda cls: cls.__name__)
def test_an_error_crosses_a_process(cls: type[TracebatonError]) -> None:
    """Pickling keeps type and detail; a process pool would hang on an error that cannot."""
    copy = pickle.loads(pickle.dumps(cls("Because.") if cls is not RetryLater else RetryLater(3)))

    assert type(copy) is cls
    assert copy.detail == (cls("Because.").detail if cls is not RetryLater else default_detail(cls))
