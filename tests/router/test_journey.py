"""What is known of a request while it is served."""

from __future__ import annotations

import time

from smallfirst.router.journey import new_request_id


def test_a_later_requests_id_sorts_after_an_earlier_ones() -> None:
    ids = []
    for _ in range(5):
        ids.append(new_request_id())
        time.sleep(0.002)
    assert ids == sorted(ids)


def test_ids_of_the_same_moment_differ_in_what_nobody_can_guess() -> None:
    ids = {new_request_id() for _ in range(1000)}
    assert len({one[-20:] for one in ids}) == 1000
    assert {len(one) for one in ids} == {len("req_") + 32}
