"""What is trained on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smallfirst.router.training.files import DataError, data_folder, decoded
from smallfirst.router.training.keys import row_key
from smallfirst.router.training.rows import EXCLUDED_SUBSETS, TrainingRow, load_rows

DATA = Path(os.environ.get("SMALLFIRST_DATA", "../shared/data"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no evaluation data in {DATA}: set SMALLFIRST_DATA"
)


@pytest.fixture(scope="module")
def rows() -> list[TrainingRow]:
    return load_rows(DATA)


@needs_data
def test_rows_whose_licence_forbids_it_are_left_out(rows: list[TrainingRow]) -> None:
    assert not {part for row in rows for part in row.topic.split("/")} & EXCLUDED_SUBSETS


@needs_data
def test_every_pair_outcome_is_there(rows: list[TrainingRow]) -> None:
    assert sum(row.file == "router_outcomes_dev.parquet" for row in rows) == 6079
    pairs = [row for row in rows if {"weak", "strong"} <= row.outcomes.keys()]
    assert {row.file for row in pairs} == {"router_outcomes_dev.parquet"}
    assert len(pairs) == 6079


@needs_data
def test_many_models_outcomes_become_scores_and_tiers(rows: list[TrainingRow]) -> None:
    scored = [row for row in rows if row.scores]
    assert {row.file for row in scored} == {
        f"outcomes_{name}_dev.parquet" for name in ("11_models", "7_small_models", "many_models")
    }
    assert all(0 <= value <= 1 for row in scored for value in (*row.scores.values(), *row.outcomes.values()))
    seven = [row for row in scored if row.file == "outcomes_7_small_models_dev.parquet"]
    assert {tier for row in seven for tier in row.outcomes} == {"small"}
    many = [row for row in scored if row.file == "outcomes_many_models_dev.parquet"]
    mean = {
        tier: sum(row.outcomes[tier] for row in many) / len(many) for tier in ("small", "middle", "large")
    }
    assert mean["small"] < mean["middle"] < mean["large"]


@needs_data
def test_assumed_outcomes_weigh_less_than_measured_ones(rows: list[TrainingRow]) -> None:
    assumed = [row for row in rows if row.weight < 1]
    assert {row.file for row in assumed} == {
        f"{name}_dev.parquet" for name in ("chat_open", "agent_bfcl", "agent_tau2", "chat_ifeval")
    }
    assert all(set(row.outcomes) == {"smollm2-135m", "qwen2.5-coder-0.5b"} for row in assumed)


@needs_data
def test_answering_without_a_call_is_no_proof_of_skill_with_tools(rows: list[TrainingRow]) -> None:
    assert not any(row.outcomes for row in rows if "irrelevance" in row.topic)


def test_a_missing_folder_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="SMALLFIRST_DATA"):
        load_rows(tmp_path / "none")


def test_the_folder_comes_from_the_environment() -> None:
    assert data_folder({"SMALLFIRST_DATA": "/x"}) == Path("/x")
    assert data_folder({}) == Path("../shared/data")


def test_a_broken_column_is_named() -> None:
    with pytest.raises(DataError, match=r"f: row 1: column 'request' is not valid JSON"):
        decoded({"request": "{"}, "request", "f: row 1")
    assert decoded({"request": ""}, "request", "f") is None


def test_a_request_is_recognised_by_its_text_alone() -> None:
    first = row_key({"messages": [{"role": "user", "content": "hi"}], "model": "a"})
    assert first == row_key({"messages": [{"role": "user", "content": "hi"}], "model": "b"})
    assert first != row_key({"messages": [{"role": "user", "content": "ho"}]})
