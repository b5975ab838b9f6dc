"""Label heads: fitting on a few examples, the file, and what is said of bad data."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner, Result

from smallfirst.router.classification import fit as fitting
from smallfirst.router.classification.fit import calibration_error, fit_head, folds_of, read_examples
from smallfirst.router.classification.head import LabelHead, Ngrams, char_keys, word_keys
from smallfirst.router.cli.train_classifier import classifier
from smallfirst.router.errors import SettingsError
from smallfirst.router.scoring.embedding import TokenEmbedding
from smallfirst.router.training.files import DataError

EXAMPLES = {
    "weather": [
        "will it rain tomorrow", "is it going to snow in Oslo", "how warm is it outside", "do I need an umbrella",
        "what is the forecast for Sunday", "is it windy in Chicago today", "will the sun shine this weekend",
        "how cold does it get tonight",
    ],
    "money": [
        "how much is in my account", "send 50 dollars to Ann", "what is my balance", "pay my electricity bill",
        "transfer money to savings", "why was my card declined", "did my salary arrive", "raise my credit limit",
    ],
    "music": [
        "play some jazz", "next song please", "who sings this track", "add this tune to my playlist",
        "turn the volume up", "play the new album by Adele", "skip this song", "put on relaxing piano music",
    ],
}  # fmt: skip
TEXTS = [text for texts in EXAMPLES.values() for text in texts]
LABELS = [label for label, texts in EXAMPLES.items() for _ in texts]
UNSEEN = {"will it snow on Friday": "weather", "play a jazz album": "music", "send money to Bob": "money"}


@pytest.fixture(scope="module")
def embedding() -> TokenEmbedding:
    return TokenEmbedding.load()


@pytest.fixture(scope="module")
def head(embedding: TokenEmbedding) -> LabelHead:
    return fit_head(TEXTS, LABELS, embedding=embedding)


@pytest.fixture(scope="module")
def saved(head: LabelHead, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("head") / "new" / "head.npz"
    head.save(path)
    return path


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(source: str = "a") -> list[dict[str, object]]:
    return [
        {"text": text, "label": label, "source": source} for text, label in zip(TEXTS, LABELS, strict=True)
    ]


def test_unseen_texts_get_the_label_of_similar_examples(head: LabelHead) -> None:
    likeliest = head.predict_proba(list(UNSEEN)).argmax(axis=1)
    assert [head.labels[at] for at in likeliest] == list(UNSEEN.values())


@pytest.mark.parametrize("text", ["", " \n", "bad \ud83d end", "東京の天気は?", "x" * 5000, *UNSEEN])
def test_probabilities_sum_to_one_whatever_the_text(head: LabelHead, text: str) -> None:
    chances = head.predict_proba([text])
    assert chances.shape == (1, 3)
    assert (chances >= 0).all()
    assert chances.sum() == pytest.approx(1, abs=1e-5)


def test_no_texts_have_no_probabilities(head: LabelHead) -> None:
    assert head.predict_proba([]).shape == (0, 3)


def test_a_text_is_answered_alike_alone_and_among_others(head: LabelHead) -> None:
    alone = np.concatenate([head.predict_proba([text]) for text in UNSEEN])
    assert np.allclose(head.predict_proba(list(UNSEEN)), alone, atol=1e-6)


def test_the_card_has_out_of_fold_figures(head: LabelHead) -> None:
    assert (head.card["n"], head.card["labels"]) == (24, 3)
    assert all(
        0 <= head.card[name] <= 1 for name in ("accuracy", "expected_calibration_error", "baseline_accuracy")
    )


def test_a_head_read_back_answers_alike(head: LabelHead, saved: Path, embedding: TokenEmbedding) -> None:
    again = LabelHead.load(saved, embedding=embedding)
    assert (again.labels, again.card) == (head.labels, head.card)
    assert (again.predict_proba(list(UNSEEN)) == head.predict_proba(list(UNSEEN))).all()


def test_the_same_examples_give_the_same_bytes(
    saved: Path, tmp_path: Path, embedding: TokenEmbedding
) -> None:
    fit_head(TEXTS, LABELS, embedding=embedding).save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == saved.read_bytes()


def test_the_file_holds_no_text_of_the_examples(saved: Path) -> None:
    with np.load(saved, allow_pickle=False) as file:
        content = b"".join(file[name].tobytes() for name in file.files)
    assert b"playlist" not in content
    assert b"umbrella" not in content


def test_many_examples_are_fitted_with_an_svm_also_for_two_labels(
    embedding: TokenEmbedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "SMALL", 0)
    two = [at for at, label in enumerate(LABELS) if label != "music"]
    head = fit_head([TEXTS[at] for at in two], [LABELS[at] for at in two], embedding=embedding)
    likeliest = head.predict_proba([TEXTS[at] for at in two]).argmax(axis=1)
    assert [head.labels[at] for at in likeliest] == [LABELS[at] for at in two]


@pytest.mark.parametrize(
    "content", [b"", b"not a zip", b"PK\x03\x04 torn", pickle.dumps({"labels": ["a", "b"]})]
)
def test_a_file_that_is_no_head_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(SettingsError, match=r"bad\.npz: not a readable label classifier: .*Train one"):
        LabelHead.load(tmp_path / "bad.npz")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.npz: there is no such file"):
        LabelHead.load(tmp_path / "none.npz")


def test_a_folder_is_no_head(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not a readable label classifier"):
        LabelHead.load(tmp_path)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_torn_file_is_refused(saved: Path, tmp_path: Path, kept: float) -> None:
    content = saved.read_bytes()
    (tmp_path / "torn.npz").write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(SettingsError, match=r"torn\.npz: not a readable"):
        LabelHead.load(tmp_path / "torn.npz")


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.mark,))


def test_nothing_in_a_file_is_ever_unpickled(saved: Path, tmp_path: Path) -> None:
    with np.load(saved, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["bias"] = np.array([Trap(tmp_path / "mark")], object)
    with (tmp_path / "trap.npz").open("wb") as out:
        np.savez(out, allow_pickle=True, **arrays)
    with pytest.raises(SettingsError, match="not a readable"):
        LabelHead.load(tmp_path / "trap.npz")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("name", "array", "problem"),
    [
        ("bias", None, "array 'bias' is missing"),
        ("bias", np.zeros(2, np.float32), r"array 'bias' has shape \(2,\)"),
        ("bias", np.zeros(3, np.float64), "type float64"),
        ("bias", np.full(3, np.nan, np.float32), "no numbers"),
        ("words_keys", np.zeros(2, np.uint64), "not ascending"),
        ("header", np.frombuffer(b"{}", np.uint8), "expected format 1"),
        (
            "header",
            np.frombuffer(b'{"format": 1, "labels": [1, 2], "card": {}}', np.uint8),
            "no list of strings",
        ),
        ("header", np.frombuffer(b'{"format": 1, "labels": ["a"], "card": {}}', np.uint8), "two labels"),
    ],
)
def test_a_file_with_other_arrays_is_refused(
    saved: Path, tmp_path: Path, name: str, array: np.ndarray | None, problem: str
) -> None:
    with np.load(saved, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    arrays.pop(name)
    with (tmp_path / "other.npz").open("wb") as out:
        np.savez(out, allow_pickle=False, **arrays, **({} if array is None else {name: array}))
    with pytest.raises(SettingsError, match=problem):
        LabelHead.load(tmp_path / "other.npz")


def test_words_and_pairs_are_counted_without_case() -> None:
    assert len(word_keys("One two, TWO")) == 5
    assert set(word_keys("two one")) & set(word_keys("ONE two")) == set(word_keys("one")) | set(
        word_keys("two")
    )
    assert len(word_keys("")) == 0


def test_characters_are_taken_inside_words_with_a_blank_at_either_side() -> None:
    # " ab ": 3 pairs, 2 of three, 1 of four; "a b": nothing runs over the blank.
    assert len(char_keys("ab")) == 6
    assert set(char_keys("ab cd")) == set(char_keys("ab")) | set(char_keys("cd"))


def test_weights_in_8_bits_say_nearly_the_same() -> None:
    weights = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    keys = np.array([3, 5, 7, 9], np.uint64)
    scores = Ngrams.of(keys, np.ones(4, np.float32), weights).scores(np.array([5, 9, 11], np.uint64))
    assert np.allclose(scores, (weights[1] + weights[3]) / np.sqrt(2), atol=0.02)


def test_no_known_ngrams_say_nothing() -> None:
    empty = Ngrams.of(np.zeros(0, np.uint64), np.zeros(0, np.float32), np.zeros((0, 2), np.float32))
    assert empty.scores(np.array([1, 2], np.uint64)).tolist() == [0, 0]


def test_folds_spread_each_label_and_keep_equal_texts_together() -> None:
    texts = ["Pay 10!", "pay 20", "call Ann", "call Bob", "rain", "rain"]
    fold = folds_of(texts, np.array([0, 0, 0, 0, 1, 1]), 2, seed=0)
    assert fold[0] == fold[1]
    assert np.bincount(fold[:4]).tolist() == [2, 2]
    # This label has no other text, so it is split all the same.
    assert fold[4] != fold[5]


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    chances = np.array([[0.8, 0.2]] * 4, np.float32)
    assert calibration_error(chances, np.array([0, 0, 0, 1])) == pytest.approx(0.05, abs=1e-6)


def test_a_label_with_one_example_is_named() -> None:
    with pytest.raises(DataError, match="at least 2 examples; there is 1 of 'b', 'c'"):
        fit_head(["1", "2", "3", "4"], ["a", "a", "b", "c"])


def test_one_label_is_too_few() -> None:
    with pytest.raises(DataError, match="at least 2 labels; there is a"):
        fit_head(["1", "2"], ["a", "a"])


def test_json_lines_csv_and_parquet_give_the_same_examples(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "a.jsonl", rows_of())
    with duckdb.connect() as connection:
        table = connection.read_json(str(lines))
        table.write_parquet(str(tmp_path / "a.parquet"))
        table.write_csv(str(tmp_path / "a.csv"))
    read = [read_examples(tmp_path / name) for name in ("a.jsonl", "a.csv", "a.parquet")]
    assert read == [(TEXTS, LABELS)] * 3


def test_a_byte_order_mark_and_quoted_lines_are_read(tmp_path: Path) -> None:
    content = '\ufefflabel,text\r\na,"one\r\ntwo"\r\na,"say ""hi"""\r\nb,x\r\nb,y\r\n'
    (tmp_path / "a.csv").write_bytes(content.encode())
    assert read_examples(tmp_path / "a.csv") == (["one\r\ntwo", 'say "hi"', "x", "y"], ["a", "a", "b", "b"])


def test_only_rows_of_the_named_source_are_read(tmp_path: Path) -> None:
    other: list[dict[str, object]] = [{"text": "x", "label": "other", "source": "b"}]
    path = write_lines(tmp_path / "a.jsonl", rows_of() + other)
    assert read_examples(path, source="a") == (TEXTS, LABELS)
    with pytest.raises(DataError, match=r"a\.jsonl: there are no examples whose 'source' is 'c'"):
        read_examples(path, source="c")


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"t{at}", "label": at % 2} for at in range(4)]
    assert read_examples(write_lines(tmp_path / "a.jsonl", rows))[1] == ["0", "1", "0", "1"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", "", r"a\.jsonl: there are no examples"),
        ("a.csv", "", r"a\.csv: line 1: column 'text' is missing; there are: none"),
        ("a.csv", "text,class\na,b\n", r"a\.csv: line 1: column 'label' is missing; there are: text, class"),
        ("a.csv", "text,label\na,b\nc\n", r"a\.csv: line 3: field 'label' is missing"),
        ("a.csv", "text,label\na,b\n,d\n", r"a\.csv: line 3: field 'text': expected text"),
        ("a.csv", "text,label\na,b\nc, d,e\n", r"a\.csv: line 3: more fields .* commas must be in quotes"),
        ("a.csv", 'text,label\na,b\n"c"d,e\n', r"a\.csv: line 3: not valid CSV"),
        (
            "a.jsonl",
            '{"text": "a", "label": "b"}\n\n{"text": "a"}',
            r"a\.jsonl: line 3: field 'label' is mis",
        ),
        ("a.jsonl", '{"text": 5, "label": "b"}', r"a\.jsonl: line 1: field 'text': expected text"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{', r"a\.jsonl: line 2 is not valid JSON"),
        ("a.jsonl", "[]", r"a\.jsonl: line 1: expected a JSON object"),
        ("a.jsonl", '{"text": "a", "label": "b"}', r"a\.jsonl: a classifier needs at least 2 labels"),
        ("a.txt", "", r"a\.txt: expected a \.parquet, \.csv or \.jsonl file"),
        ("a.parquet", "no", r"a\.parquet: not a readable Parquet file"),
    ],
)
def test_bad_examples_are_named_by_file_line_and_field(
    tmp_path: Path, name: str, content: str, problem: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=problem):
        read_examples(tmp_path / name)


@pytest.mark.parametrize("name", ["none.csv", "none.jsonl", "none.parquet"])
def test_a_missing_file_of_examples_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name}: there is no such file"):
        read_examples(tmp_path / name)


def test_text_that_is_not_utf_8_is_named_by_its_line(tmp_path: Path) -> None:
    for name, content in {"a.csv": b"text,label\na,b\n\xff,d\n", "a.jsonl": b'{"text": "\xff"}\n'}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: line \d"):
            read_examples(tmp_path / name)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(classifier, [str(argument) for argument in arguments])


def test_the_command_writes_a_head_and_prints_one_json_object_last(tmp_path: Path) -> None:
    data, out = write_lines(tmp_path / "a.jsonl", rows_of()), tmp_path / "deep" / "head.npz"
    result = run("--data", data, "--out", out, "--source", "a", "--json")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 1)
    printed = json.loads(result.stdout)
    head = LabelHead.load(out)
    assert "fold 5 of 5" in result.stderr
    assert printed.pop("seconds") > 0
    assert printed == {
        "labels": list(head.labels),
        "n": 24,
        "accuracy": head.card["accuracy"],
        "expected_calibration_error": head.card["expected_calibration_error"],
        "baseline_accuracy": head.card["baseline_accuracy"],
        "out": str(out),
    }


def test_the_command_says_in_words_how_good_it_is(tmp_path: Path) -> None:
    result = run("--data", write_lines(tmp_path / "a.jsonl", rows_of()), "--out", tmp_path / "head.npz")
    assert result.stdout.startswith("3 labels, n 24  right ")


def test_the_command_writes_nothing_for_bad_examples(tmp_path: Path) -> None:
    result = run("--data", tmp_path / "none.csv", "--out", tmp_path / "head.npz")
    assert isinstance(result.exception, DataError)
    assert not list(tmp_path.iterdir())
