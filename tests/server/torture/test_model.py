"""The judge of the torture must see what a faulty store would show."""

import dataclasses

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from server.torture.model import (
    Answer,
    Kind,
    Lane,
    Seen,
    after,
    blemishes,
    disorder,
    sequence_faults,
)
from server.torture.workload import BUCKETS, Purge, Put, Remove, bucket_of, content_of

IDS = tuple(f"a-{number:04}" for number in range(8))
ids = st.lists(st.sampled_from(IDS), min_size=1, max_size=5, unique=True).map(tuple)


@st.composite
def pasts(draw):
    """A lane after some acknowledged changes, with up to four unanswered ones."""
    lane = Lane("a")
    count = draw(st.integers(1, 12))
    answered = draw(st.integers(max(0, count - 4), count))
    for version in range(1, count + 1):
        kind = draw(st.sampled_from(["put", "put", "put", "remove", "purge"]))
        name = f"a-{version}"
        if kind == "put":
            lane.begin(Put(ids=draw(ids), version=version, request_id=name))
        elif kind == "remove":
            lane.begin(Remove(ids=draw(ids), request_id=name))
        else:
            lane.begin(Purge(bucket=draw(st.integers(0, BUCKETS - 1)), request_id=name))
        if version <= answered:
            assert list(lane.acknowledge(answer_to(lane, version))) == []
    return lane


def answer_to(lane, sequence):
    change = lane.pending[0]
    if isinstance(change, Put):
        changed = len(change.ids)
    else:
        changed = len(lane.state) - len(after(lane.state, change))
    return Answer(sequence=sequence, changed=changed, replayed=False)


def kinds(violations):
    return {violation.kind for violation in violations}


def with_documents(*changes):
    """A lane in which all of `changes` were acknowledged."""
    lane = Lane("a")
    for sequence, change in enumerate(changes, start=1):
        lane.begin(change)
        assert not list(lane.acknowledge(answer_to(lane, sequence)))
    return lane


def seen(id, version, sequence=1):
    content = content_of(id, version)
    return Seen(
        id=id,
        version=version,
        text=content.text,
        bucket=content.bucket,
        sequence=sequence,
        vector=content.vector,
    )


# ---- what a sound store shows


@given(pasts(), st.integers(0, 4))
def test_any_prefix_of_what_was_not_answered_may_have_happened(lane, happened):
    outcomes = lane.outcomes()
    observed = outcomes[min(happened, len(outcomes) - 1)]

    assert lane.settle(dict(observed), lane.sequence) == []
    assert lane.state == observed


@given(pasts(), st.data())
def test_what_is_asked_for_again_leads_to_the_same_end(lane, data):
    end = lane.outcomes()[-1]
    lane.settle(data.draw(st.sampled_from(lane.outcomes())), lane.sequence)

    sequence = lane.sequence
    while lane.pending:
        sequence += 1
        assert list(lane.acknowledge(answer_to(lane, sequence))) == []

    assert lane.state == end


# ---- what a faulty store shows


@given(pasts(), st.data())
def test_any_state_but_these_is_reported(lane, data):
    outcomes = lane.outcomes()
    versions = st.integers(1, 14)
    observed = data.draw(st.dictionaries(st.sampled_from(IDS), versions))
    assume(observed not in outcomes)

    assert lane.settle(observed, lane.sequence)


@given(pasts(), st.data())
def test_a_lost_document_is_reported(lane, data):
    outcomes = lane.outcomes()
    safe = sorted(set.intersection(*(set(state) for state in outcomes)))
    assume(safe)
    gone = data.draw(st.sampled_from(safe))
    observed = {id: version for id, version in lane.state.items() if id != gone}

    assert Kind.LOST in kinds(lane.settle(observed, lane.sequence))


@given(pasts())
def test_a_phantom_is_reported(lane):
    assert kinds(lane.settle({**lane.state, "a-9999": 1}, lane.sequence)) == {Kind.PHANTOM}


def test_a_removed_document_that_is_back_is_reported():
    lane = with_documents(Put(ids=IDS[:3], version=1), Remove(ids=IDS[:1]))

    assert kinds(lane.settle(dict.fromkeys(IDS[:3], 1), lane.sequence)) == {Kind.RESURRECTED}


def test_a_purged_document_that_is_back_is_reported():
    lane = with_documents(Put(ids=IDS, version=1), Purge(bucket=bucket_of(IDS[0])))

    assert kinds(lane.settle(dict.fromkeys(IDS, 1), lane.sequence)) == {Kind.RESURRECTED}


def test_the_version_before_an_acknowledged_one_is_reported():
    lane = with_documents(Put(ids=IDS[:2], version=1), Put(ids=IDS[:2], version=2))

    assert kinds(lane.settle({IDS[0]: 2, IDS[1]: 1}, lane.sequence)) == {Kind.STALE}


def test_a_part_of_an_unanswered_write_is_reported():
    lane = with_documents(Put(ids=IDS[:2], version=1))
    lane.begin(Put(ids=IDS[:2], version=2))

    assert kinds(lane.settle({IDS[0]: 2, IDS[1]: 1}, lane.sequence)) == {Kind.TORN}


def test_a_later_write_without_an_earlier_one_is_reported():
    lane = with_documents(Put(ids=IDS[:2], version=1))
    lane.begin(Put(ids=IDS[:1], version=2))
    lane.begin(Put(ids=IDS[1:2], version=3))

    assert kinds(lane.settle({IDS[0]: 1, IDS[1]: 3}, lane.sequence)) == {Kind.TORN}


def test_a_retry_that_is_not_recognised_is_reported():
    put = Put(ids=IDS[:2], version=1, request_id="r")
    lane = with_documents(put)
    before = Answer(sequence=1, changed=2, replayed=False)

    made_again = dataclasses.replace(before, sequence=2)
    answered_otherwise = dataclasses.replace(before, sequence=2, replayed=True)

    assert kinds(lane.repeated(put, before, made_again)) == {Kind.REPLAY}
    assert kinds(lane.repeated(put, before, answered_otherwise)) == {Kind.REPLAY}
    assert not list(lane.repeated(put, before, dataclasses.replace(before, replayed=True)))


def test_an_answer_with_the_wrong_numbers_is_reported():
    lane = with_documents(Put(ids=IDS[:2], version=1))
    right = Answer(sequence=2, changed=2, replayed=False)
    for wrong, kind in [
        (dataclasses.replace(right, sequence=1), Kind.SEQUENCE),
        (dataclasses.replace(right, changed=1), Kind.COUNT),
        (dataclasses.replace(right, replayed=True), Kind.REPLAY),
    ]:
        trial = dataclasses.replace(lane, pending=[])
        trial.begin(Put(ids=IDS[:2], version=2))
        assert kinds(trial.acknowledge(wrong)) == {kind}


def test_what_is_wrong_within_a_document_is_reported():
    right = seen(IDS[0], 3)
    other = content_of(IDS[1], 3)

    assert not list(blemishes(right, own_vector=True))
    for wrong in (
        dataclasses.replace(right, text=other.text),
        dataclasses.replace(right, bucket=right.bucket + 1),
        dataclasses.replace(right, vector=np.zeros_like(right.vector)),
        dataclasses.replace(right, vector=right.vector * np.nan),
        dataclasses.replace(right, vector=other.vector),
    ):
        assert kinds(blemishes(wrong, own_vector=True)) == {Kind.CONTENT}


@given(st.lists(st.sampled_from(IDS)))
def test_a_listing_that_repeats_or_goes_back_is_reported(listed):
    assert bool(list(disorder(listed))) == (listed != sorted(set(listed)))


def test_a_sequence_that_went_back_or_ran_ahead_is_reported():
    lane = with_documents(Put(ids=IDS[:1], version=1), Put(ids=IDS[:1], version=2))
    lane.begin(Put(ids=IDS[:1], version=3))

    assert kinds(sequence_faults([lane], [], 1)) == {Kind.SEQUENCE}
    assert kinds(sequence_faults([lane], [], 4)) == {Kind.SEQUENCE}
    assert sequence_faults([lane], [seen(IDS[0], 2, sequence=2)], 2) == []
    assert sequence_faults([lane], [seen(IDS[0], 3, sequence=3)], 3) == []
    assert kinds(sequence_faults([lane], [seen(IDS[0], 2, sequence=1)], 2)) == {Kind.SEQUENCE}


def test_what_happened_without_an_answer_counts_for_the_next_restart():
    """Found by a run of the torture against itself: it called the right sequence wrong."""
    lane = with_documents(Put(ids=IDS[:1], version=1))
    for version in (2, 3):
        lane.begin(Put(ids=IDS[:1], version=version))
        assert sequence_faults([lane], [], version) == []
        assert lane.settle({IDS[0]: version}, version) == []

    assert kinds(sequence_faults([lane], [], 2)) == {Kind.SEQUENCE}
