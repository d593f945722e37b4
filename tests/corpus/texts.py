"""Texts that a person or a program may hand us: tables, descriptions, presets, settings."""
# ruff: noqa: E501 - a line an input

from typing import NamedTuple


class Text(NamedTuple):
    what: str
    text: str | bytes
    words: str


PARTICIPANTS = [
    Text("nothing", "", "no column participant_id"),
    Text("commas", "participant_id,site\nsub-good,X\n", "no column participant_id"),
    Text("no UTF-8", b"participant_id\tsite\nsub-good\t\xff\n", "not UTF-8"),
    Text("UTF-16", "participant_id\tsite\nsub-good\tX\n".encode("utf-16"), "not UTF-8"),
    Text("nulls", bytes(5000), "no column participant_id"),
    Text("17 MiB", b"x" * (17 << 20), "larger than 16 MiB"),
    Text("no site", "participant_id\tage\nsub-good\t80\n", "no column for site or scanner"),
    Text("a line too long", "participant_id\tsite\nsub-good\tX\tY\n", "number of columns"),
    Text("a patient twice", "participant_id\tsite\nsub-good\tX\nsub-good\tY\n", "listed twice"),
    Text("a column twice", "participant_id\tsite\tsite\nsub-good\tX\tY\n", "column site twice"),
    Text("the patients' column twice", "participant_id\tparticipant_id\tsite\na\tsub-good\tY\n", "participant_id twice"),
]  # fmt: skip
"""Content of participants.tsv, and the words of the note in the report."""

DESCRIPTIONS = [
    b"",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"{" * 100_000,
    b"[" * 100_000,
    b'{"Name": [1]}',
    b'{"Name": NaN}',
    b"1" * 10_000,
]
"""Contents of dataset_description.json that say nothing and break nothing."""

PRESETS = [
    Text("a key that is a number", "5: epochs\n", "unknown setting '5'"),
    Text("a key that is nothing", "~: 5\n", "unknown setting"),
    Text("an unknown key", "epoch: 5\n", "did you mean 'epochs'"),
    Text("a list for a value", "epochs: [5]\n", "epochs=.* is impossible"),
    Text("a mapping for a value", "epochs: {a: 5}\n", "epochs=.* is impossible"),
    Text("a number of 400 digits", "epochs: " + "9" * 400 + "\n", "nearest valid value is 10000"),
    Text("yes for a number", "epochs: yes\n", "epochs=True is impossible|epochs=yes is impossible"),
    Text("a base that does not exist", "over: nowhere\n", "unknown preset"),
    Text("a base that is a path", "over: ../../etc/passwd\n", "unknown preset"),
    Text("itself as its base", "over: mine\n", "over"),
]
"""Content of a preset's file, and the words of the refusal."""

ASSIGNMENTS = [
    Text("no equals sign", "epochs", "key=value"),
    Text("spaces around it", "epochs = 5", "key=value"),
    Text("no key", "=5", "key=value"),
    Text("no value", "epochs=", "epochs= is impossible"),
    Text("an unknown key", "epohcs=5", "did you mean 'epochs'"),
    Text("a dunder", "__class__=5", "unknown setting"),
    Text("a preset's own word", "over=demo", "unknown setting"),
    Text("4,000 characters of key", "x" * 4000 + "=5", "unknown setting"),
    Text("100,000 digits", "epochs=" + "9" * 100_000, "nearest valid value is 10000|the default is 100"),
    Text("control characters", "epochs=\x1b[2J5", "is impossible"),
    Text("NaN", "learning_rate=nan", "learning_rate=nan is impossible"),
    Text("infinity", "learning_rate=inf", "learning_rate=inf is impossible"),
    Text("a negative number", "epochs=-5", "nearest valid value is 1"),
    Text("a fraction of an epoch", "epochs=1.5", "nearest valid value is 2"),
    Text("no multiple of 16", "image_size=100", "nearest valid value is 96"),
    Text("a switch that is none", "tta=maybe", "true or false"),
    Text("a choice that is none", "loss=hausdorff", "one of dice"),
    Text("ratios beyond one", "train_ratio=0.9 val_ratio=0.9", "lower val_ratio or test_ratio"),
    Text("ratios below one", "train_ratio=0.1", "nearest valid train_ratio is 0.6"),
    Text("no test", "test_ratio=0", "a little above 0"),
    Text("several at once", "epochs=0 tta=maybe nonsense=1", "epochs=0"),
]
"""SET strings over the preset demo, and the words of the refusal."""

VALUES = [
    ("epochs", True), ("epochs", 10**400), ("epochs", b"5"), ("epochs", [5]), ("epochs", {"a": 5}), ("epochs", None),
    ("learning_rate", True), ("learning_rate", 10**400), ("learning_rate", 1j), ("learning_rate", float("-inf")),
    ("tta", 1.0), ("tta", b"true"), ("tta", []), ("loss", None), ("loss", b"dice"), ("loss", ["dice"]), ("inputs", "adc"),
    ("epochs", "1_000"), ("epochs", "๕"), ("val_ratio", "0.1_5"), ("random_seed", 2**64), ("image_size", float("inf")),
]  # fmt: skip
"""Values that a program might hand in, none of them possible."""
