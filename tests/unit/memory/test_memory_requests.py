"""Requests: who may claim, what becomes of a lease, and that every response counts once or is late."""

import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.errors import AccessError, ConfigError, DataError
from docendo.memory import Blackboard, Requests
from docendo.memory.requests._claims import ATTEMPTS, TAKE_UPS, Held, Rules, Table
from docendo.records import Author

MAIN = Author(agent="main", role="main")


def who(name):
    return Author(agent=name, role="volunteer")


@pytest.fixture
def board(database_url):
    with Blackboard.open(database_url) as opened:
        yield opened


@pytest.fixture
def clock(board, monkeypatch):
    """A database's clock that stands still: `clock[0] += 5`."""
    time = [1000.0]
    monkeypatch.setattr(board.database, "now", lambda: time[0])
    return time


@pytest.fixture
def requests(board):
    return Requests(board, askers=("main",))


def ask(requests, key="k", **options):
    return requests.ask("where?", author=MAIN, key=key, **{"deadline": 60.0, "places": 1, **options})


def test_one_question_one_answer(board, requests):
    request = ask(requests)
    assert requests.state(request) == "open"
    requests.offer(request, 0.5, author=who("a"))
    claim = requests.claim(request, author=who("a"))
    assert requests.state(request) == "claimed"
    response = requests.respond(claim, {"text": "here", "sheets": ["1"]}, author=who("a"))
    assert not response.late
    assert response.details == {"sheets": ["1"]}
    outcome = requests.collect(request, reader=MAIN, wait=None)
    assert outcome.state == "answered" == requests.state(request)
    assert [r.text for r in outcome.responses] == ["here"]
    assert (outcome.volunteers, outcome.claims) == (1, 1)
    assert board.verify().ok


def test_the_same_key_is_the_same_request_with_its_times(requests, clock):
    first = ask(requests)
    clock[0] += 30
    assert ask(requests) == first
    assert first.rules.deadline == 1060.0


def test_nobody_claims_without_an_offer(requests):
    request = ask(requests)
    assert requests.claim(request, author=who("a")) is None


def test_the_most_confident_come_first_until_patience_ends(requests, clock):
    request = ask(requests, places=2, patience=5.0)
    for name, confidence in (("low", 0.2), ("high", 0.9), ("middle", 0.5)):
        requests.offer(request, confidence, author=who(name))
    assert requests.claim(request, author=who("low")) is None
    assert requests.claim(request, author=who("middle"))
    assert requests.claim(request, author=who("low")) is None
    clock[0] += 5
    assert requests.claim(request, author=who("low"))
    assert requests.claim(request, author=who("high")) is None  # it has waited too long


def test_nobody_claims_while_offers_are_gathered(requests, clock):
    request = ask(requests, window=2.0)
    requests.offer(request, 0.9, author=who("a"))
    assert requests.claim(request, author=who("a")) is None
    assert requests.moment(request) == 1002.0
    clock[0] += 2
    assert requests.claim(request, author=who("a"))


def test_equal_confidence_goes_to_the_first_offer(requests):
    request = ask(requests)
    requests.offer(request, 0.5, author=who("b"))
    requests.offer(request, 0.5, author=who("a"))
    assert requests.claim(request, author=who("a")) is None
    assert requests.claim(request, author=who("b"))


def test_a_lease_that_ran_out_is_taken_over_and_the_old_answer_is_late(requests, clock):
    request = ask(requests)
    for name in ("a", "b"):
        requests.offer(request, 0.5, author=who(name))
    dead = requests.claim(request, author=who("a"), lease=10)
    assert requests.claim(request, author=who("b")) is None
    assert requests.moment(request) == 1001.0  # patience first
    clock[0] += 10
    assert requests.state(request) == "open"
    alive = requests.claim(request, author=who("b"), lease=10)
    assert alive.token > dead.token
    assert requests.renew(dead, author=who("a")) is None
    assert requests.release(dead, author=who("a")) is False
    assert requests.respond(dead, "old", author=who("a")).late
    assert not requests.respond(alive, "new", author=who("b")).late
    outcome = requests.collect(request, reader=MAIN)
    assert [r.text for r in outcome.responses] == ["new"]
    assert [(r.text, r.late) for r in requests.responses(request, reader=MAIN)] == [
        ("old", True),
        ("new", False),
    ]


def test_the_one_that_took_over_dies_too_and_the_first_is_still_late(requests, clock):
    request = ask(requests)
    for name in ("a", "b"):
        requests.offer(request, 0.5, author=who(name))
    first = requests.claim(request, author=who("a"), lease=10)
    clock[0] += 10
    requests.claim(request, author=who("b"), lease=10)
    clock[0] += 10
    assert requests.respond(first, "old", author=who("a")).late
    assert requests.collect(request, reader=MAIN).state == "unanswered"


def test_a_lease_that_ran_out_and_nobody_took_is_renewed_or_answered(requests, clock):
    request = ask(requests)
    requests.offer(request, 0.5, author=who("a"))
    claim = requests.claim(request, author=who("a"), lease=10)
    clock[0] += 11
    claim = requests.renew(claim, author=who("a"), lease=10)
    assert claim.expires == 1021.0
    clock[0] += 20
    assert not requests.respond(claim, "slow", author=who("a")).late


def test_another_process_of_the_same_volunteer_waits_for_the_lease(requests, clock):
    request = ask(requests)
    requests.offer(request, 0.5, author=who("a"))
    requests.claim(request, author=who("a"), worker="w1", lease=10)
    assert requests.claim(request, author=who("a"), worker="w2") is None
    again = requests.claim(request, author=who("a"), worker="w1")  # restarted under its name
    assert again
    clock[0] += 40
    other = requests.claim(request, author=who("a"), worker="w2")
    assert requests.respond(again, "old", author=who("a")).late
    assert not requests.respond(other, "new", author=who("a")).late


def test_one_claim_has_one_response(board, requests):
    request = ask(requests)
    requests.offer(request, 0.5, author=who("a"))
    claim = requests.claim(request, author=who("a"))
    first = requests.respond(claim, "one", author=who("a"))
    assert requests.respond(claim, "two", author=who("a")) == first
    assert len(board.posts(channel="responses")) == 1


def test_released_is_free_again_and_failed_is_not(requests):
    request = ask(requests)
    requests.offer(request, 0.5, author=who("a"))
    claim = requests.claim(request, author=who("a"))
    assert requests.release(claim, author=who("a"))
    assert requests.state(request) == "open"
    claim = requests.claim(request, author=who("a"))
    assert requests.release(claim, author=who("a"), failed=True)
    assert requests.claim(request, author=who("a")) is None
    assert not requests.may_claim(request, author=who("a"))


def test_a_request_that_kills_its_worker_is_left_alone_after_some_attempts(requests, clock):
    request = ask(requests, deadline=None)
    requests.offer(request, 0.5, author=who("a"))
    for _ in range(ATTEMPTS):
        assert requests.may_claim(request, author=who("a"))
        assert requests.claim(request, author=who("a"), lease=1)
        clock[0] += 2
    assert requests.claim(request, author=who("a")) is None
    assert not requests.may_claim(request, author=who("a"))


def test_a_claim_that_is_taken_up_is_the_same_attempt_under_a_token_of_its_own(requests, clock):
    request = ask(requests, deadline=None)
    requests.offer(request, 0.5, author=who("a"))
    old = requests.claim(request, author=who("a"), worker="w")
    new = requests.claim(request, author=who("a"), worker="w")
    assert (new.attempt, new.token > old.token) == (old.attempt, True)
    # The one before it lives after all: it can end nothing, and its answer is late.
    assert requests.release(old, author=who("a")) is False
    assert requests.renew(old, author=who("a")) is None
    first = requests.respond(new, "new", author=who("a"))
    assert (first.text, first.late) == ("new", False)
    assert requests.respond(new, "new again", author=who("a")) == first
    late = requests.respond(old, "old", author=who("a"))
    assert (late.text, late.late) == ("old", True)
    assert [answer.text for answer in requests.collect(request, reader=MAIN).responses] == ["new"]


def test_a_request_that_kills_its_worker_at_once_is_left_alone_as_well(requests, clock):
    request = ask(requests, deadline=None)
    requests.offer(request, 0.5, author=who("a"))
    for _ in range(TAKE_UPS + 1):
        assert requests.may_claim(request, author=who("a"), worker="w")
        assert requests.claim(request, author=who("a"), worker="w", lease=10)
    assert requests.claim(request, author=who("a"), worker="w") is None


def test_what_is_no_request_ends_no_worker(requests, board):
    board.post("request", {"text": "?"}, author=MAIN, key="odd", channel="requests")
    spans = {"places": 1, "window": "soon", "patience": None, "deadline": None}
    board.post("request", {"text": "?", **spans}, author=MAIN, key="odder", channel="requests")
    request = ask(requests)
    assert [found.id for found in requests.posted()] == [request.id]
    with pytest.raises(DataError, match="has the places None"):
        requests.get(board.find("odd").id)


def test_a_deadline_expires_a_request_and_collecting_leaves_it_unanswered(requests, clock):
    request = ask(requests, deadline=10)
    requests.offer(request, 0.5, author=who("a"))
    claim = requests.claim(request, author=who("a"), lease=100)
    clock[0] += 10
    assert requests.state(request) == "expired"
    assert requests.claim(request, author=who("a"), worker="other") is None
    assert requests.respond(claim, "too late", author=who("a")).late
    outcome = requests.collect(request, reader=MAIN, wait=None)
    assert (outcome.state, outcome.responses, outcome.claims) == ("unanswered", (), 1)


def test_what_comes_after_collecting_is_late_and_collecting_again_is_the_same(requests):
    request = ask(requests, places=2)
    for name in ("a", "b"):
        requests.offer(request, 0.5, author=who(name))
    one, two = (requests.claim(request, author=who(name)) for name in ("a", "b"))
    requests.respond(one, "in time", author=who("a"))
    first = requests.collect(request, reader=MAIN)
    assert requests.respond(two, "after", author=who("b")).late
    assert requests.collect(request, reader=MAIN, wait=None) == first
    assert [r.text for r in first.responses] == ["in time"]


def test_collect_waits_for_the_quorum_only(requests):
    request = ask(requests, places=3, deadline=None)
    for name in ("a", "b", "c"):
        requests.offer(request, 0.5, author=who(name))
    requests.respond(requests.claim(request, author=who("b")), "b", author=who("b"))
    assert requests.settle(request, reader=MAIN, force=False) is None
    assert requests.settle(request, reader=MAIN, quorum=2, force=False) is None
    outcome = requests.settle(request, reader=MAIN, quorum=1, force=False)
    assert [r.volunteer for r in outcome.responses] == ["b"]


def test_collect_is_settled_when_nobody_works_on_it_any_more(requests, clock):
    request = ask(requests, places=3, deadline=None, patience=1.0)
    for name in ("a", "b"):
        requests.offer(request, 0.5, author=who(name))
    requests.respond(requests.claim(request, author=who("a")), "a", author=who("a"))
    assert requests.settle(request, reader=MAIN, force=False) is None  # b may still claim
    clock[0] += 1
    assert requests.settle(request, reader=MAIN, force=False).state == "answered"


def test_collect_wakes_up_for_an_answer_of_another_thread(requests):
    request = ask(requests, deadline=30.0)

    def work():
        requests.offer(request, 0.5, author=who("a"))
        requests.respond(requests.claim(request, author=who("a")), "here", author=who("a"))

    thread = threading.Timer(0.2, work)
    thread.start()
    assert requests.collect(request, reader=MAIN, wait=None).responses[0].text == "here"
    thread.join()


def test_collect_gives_up(requests):
    outcome = requests.collect(ask(requests), reader=MAIN, wait=0.05)
    assert (outcome.state, outcome.volunteers) == ("unanswered", 0)
    assert (
        requests.collect(ask(requests, key="2", deadline=0.05), reader=MAIN, wait=None).state == "unanswered"
    )


def test_offers_and_responses_are_for_the_asking_role_alone(requests):
    request = ask(requests)
    for read in (
        lambda: requests.collect(request, reader=who("a")),
        lambda: requests.offers(request, reader=who("a")),
        lambda: requests.responses(request, reader=who("a")),
    ):
        with pytest.raises(AccessError, match="role 'volunteer' reads channel"):
            read()
    with pytest.raises(AccessError, match="posts on channel 'requests'"):
        requests.ask("?", author=who("a"), key="x")


def test_quarantined_posts_are_not_used(board, requests):
    judge = Author(agent="judge", role="code")
    request, refused = ask(requests, places=2), ask(requests, key="2")
    board.trust(refused.id, "quarantined", by=judge, reason="test")
    assert [r.id for r in requests.posted()] == [request.id]
    for name in ("a", "b"):
        requests.offer(request, 0.5, author=who(name))
    good = requests.respond(requests.claim(request, author=who("a")), "good", author=who("a"))
    bad = requests.respond(requests.claim(request, author=who("b")), "bad", author=who("b"))
    board.trust(bad.post, "quarantined", by=judge, reason="test")
    assert [r.post for r in requests.collect(request, reader=MAIN).responses] == [good.post]


def test_a_quarantined_offer_gets_no_place(board, requests):
    request = ask(requests)
    offer = requests.offer(request, 0.9, author=who("a"))
    board.trust(offer.id, "quarantined", by=Author(agent="judge", role="code"), reason="test")
    assert requests.claim(request, author=who("a")) is None


def test_a_volunteer_may_start_before_anybody_has_declared_the_channels(board):
    early = Requests(board)
    assert list(early.posted()) == []
    request = ask(Requests(board, askers=("main",)))
    assert [r.id for r in early.posted()] == [request.id]
    with Blackboard.open(":memory:") as other, pytest.raises(ConfigError, match="has no channel"):
        Requests(other).collect(request, reader=MAIN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"places": 0}, "places is 0"),
        ({"deadline": -1.0}, "deadline is -1.0"),
        ({"window": math.nan}, "window is nan"),
    ],
)
def test_bad_numbers(requests, change, message):
    with pytest.raises(ConfigError, match=message):
        ask(requests, **change)


def test_bad_input(board, requests):
    request = ask(requests)
    with pytest.raises(DataError, match=r"confidence of 'a' is 1\.5"):
        requests.offer(request, 1.5, author=who("a"))
    with pytest.raises(DataError, match="has the field 'places'"):
        requests.ask({"text": "?", "places": 3}, author=MAIN, key="x")
    with pytest.raises(DataError, match="no field 'text'"):
        requests.ask({"what": "?"}, author=MAIN, key="x")
    with pytest.raises(ConfigError, match="lease is 0"):
        requests.claim(request, author=who("a"), lease=0)
    with pytest.raises(ConfigError, match="quorum is 0"):
        requests.collect(request, reader=MAIN, quorum=0)
    with pytest.raises(DataError, match="expected a request"):
        requests.get(board.post("fact", {}, author=MAIN, key="f").id)


EVENTS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(("claim", "done", "release", "fail", "wait"))),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(places=st.integers(1, 3), events=EVENTS)
def test_no_more_places_than_there_are_whatever_happens(places, events):
    rules, table, now, version = Rules(places=places, opens=0, yields=0, deadline=None), Table(), 0.0, 0
    tokens = []
    for name, event in events:
        held = table.claims.get(name)
        if event == "wait":
            now += 5
        elif event == "claim":
            claim = Held(worker=name, token=version + 1, expires=now + 8)
            granted = table.grant(rules, list("abcd"), name=name, claim=claim, now=now)
            if granted is not None:
                version += 1
                tokens += [claim.token] * (granted.claims[name].token == claim.token)
                table = granted
        elif held is not None and held.state == "held":
            state = {"done": "done", "release": "released", "fail": "failed"}[event]
            version += 1
            table = table.having({name: held.replace(state=state)})
        assert sum(c.state in ("held", "done") for c in table.claims.values()) <= places
        assert all(c.count <= ATTEMPTS for c in table.claims.values())
        assert Table.of(table.to_json()) == table
    assert tokens == sorted(set(tokens))
