"""`smallfirst bench cache` measures a real store and leaves nothing behind."""

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from fixtures.redis_server import RedisServer

from smallfirst.router.cli.bench import bench
from smallfirst.router.cli.bench_cache import Texts
from smallfirst.router.scoring.embedding import TokenEmbedding


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_every_size_is_measured(store: str, request: pytest.FixtureRequest) -> None:
    options = ["--sizes", "20,50", "--json"]
    if store == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        options += ["--url", server.url]
    ran = CliRunner().invoke(bench, ["cache", *options])
    assert ran.exit_code == 0, ran.output
    report = msgspec.json.decode(ran.stdout)
    assert report["store"] == store
    assert [row["entries"] for row in report["sizes"]] == [20, 50]
    for row in report["sizes"]:
        assert (row["recall"], row["failed"]) == (1.0, 0)
        for call in ("exact_hit", "exact_miss", "search", "look_up", "add"):
            assert 0 < row[call]["median_ms"] <= row[call]["p99_ms"]
    if store == "redis":
        with server.client() as client:
            assert client.dbsize() == 0


def test_the_figures_can_be_read() -> None:
    ran = CliRunner().invoke(bench, ["cache", "--sizes", "20"])
    assert ran.exit_code == 0, ran.output
    assert "20 entries: exact hit" in ran.stdout
    assert "nearest found 100.0%" in ran.stdout


@pytest.mark.parametrize("sizes", ["", "0", "10,x"])
def test_sizes_that_are_none_are_refused(sizes: str) -> None:
    ran = CliRunner().invoke(bench, ["cache", "--sizes", sizes])
    assert ran.exit_code == 2
    assert "whole numbers from 1 on" in ran.output


def test_a_reworded_text_is_near_the_one_it_was_made_of_and_far_from_most() -> None:
    texts = Texts(TokenEmbedding.load(), 500)
    words, queries = texts.reworded(50, 500)
    assert len(set(words)) == 50
    cosines = queries @ texts.embed(0, 500).T
    assert texts.nearest(queries, 500) == cosines.argmax(1).tolist()
    assert np.median(cosines.max(1)) > 0.8
    assert np.median(cosines) < 0.5
