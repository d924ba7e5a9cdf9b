"""A fault at the n-th call: the old state or the new, a clear error, and then work goes on."""

import pytest

from index.torture import faults
from index.torture.disk import Create, Look, MakeDirectory, Rename, Sync, Write
from index.torture.faults import Fault, Kind, Saboteur, When
from index.torture.history import World, history
from index.torture.place import temporary_home
from index.torture.watching import watched

pytestmark = pytest.mark.timeout(1800)  # an hour of faults, if others use the machine


@pytest.mark.parametrize("every", [131, pytest.param(7, marks=pytest.mark.slow)])
def test_whatever_call_fails_nothing_is_lost_and_work_goes_on(every):
    wrong = []
    tried = noticed = 0
    for outcome in faults.run(faults.every_fault(every=every, first=1 + every // 2)):
        tried += 1
        noticed += bool(outcome.step)
        wrong += [str(outcome)] if outcome.wrong else []

    assert wrong == []
    assert noticed > tried / 3


def test_the_history_meets_every_kind_of_call():
    kinds = set()

    class Listener:
        def before(self, call):
            kinds.add(call.what if isinstance(call, Look) else type(call))

        def after(self, call):
            pass

    with temporary_home() as home, watched(home, Listener()):
        world = World(home)
        for step in history():
            step.run(world)

    assert kinds >= {Create, Write, Sync, Rename, MakeDirectory, "open", "read", "stat", "map"}


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("when", list(When))
def test_a_fault_strikes_the_call_that_it_names(tmp_path, kind, when):
    saboteur = Saboteur(Fault(kind, when, 2))
    path = tmp_path.resolve() / "file"

    with watched(tmp_path, saboteur), pytest.raises((OSError, MemoryError)):
        path.write_bytes(b"x")

    assert isinstance(saboteur.struck, Write)
    assert path.read_bytes() == (b"x" if when is When.LATE else b"")


# Bugs that were in the store, or might be, and must be found if they come back.


def found(fault_kinds, every=11):
    """Whether any of these faults finds something wrong."""
    for kind, when in fault_kinds:
        for number in range(1, faults.calls_of(kind) + 1, every):
            with temporary_home() as home:
                if faults.suffer(Fault(kind, when, number), home).wrong:
                    return True
    return False


@pytest.mark.slow
def test_a_store_that_forgets_what_it_could_not_open_is_found_out(monkeypatch):
    monkeypatch.setattr("index.store.Store._settle", lambda store: store._check_open())

    assert found([(Kind.NO_LUCK, When.EARLY)])


@pytest.mark.slow
def test_a_store_that_lets_bare_errors_through_is_found_out(monkeypatch):
    from contextlib import nullcontext

    for module in ("files", "store", "segments", "snapshots"):
        monkeypatch.setattr(f"index.{module}.translated", lambda path: nullcontext())

    assert found([(Kind.NO_LUCK, When.EARLY)])


@pytest.mark.slow
def test_leftovers_that_keep_a_name_from_being_used_are_found_out(monkeypatch):
    monkeypatch.setattr("index.store._remove", lambda directory: None)

    assert found([(Kind.NO_LUCK, When.LASTING)])


@pytest.mark.slow
def test_a_write_in_two_transactions_is_found_out(monkeypatch):
    from index.changes import Transaction

    real = Transaction.add

    def add(self, record, vector):
        real(self, record, vector)
        if record.id == "d10":
            self.reader.connection.execute("COMMIT")
            self.reader.connection.execute("BEGIN IMMEDIATE")

    monkeypatch.setattr(Transaction, "add", add)

    assert found([(Kind.NO_ROOM, When.EARLY), (Kind.NO_LUCK, When.EARLY)], every=3)
