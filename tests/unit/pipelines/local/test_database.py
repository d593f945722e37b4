"""The database of an older MLflow: upgraded as a whole, with the copy from before, or left as it was."""

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command
from mlflow.store.db import utils
from mlflow.store.tracking.dbmodels.initial_models import Base

from components.core.errors import StepError
from pipelines.local import database
from pipelines.local.services import MLflow


@pytest.fixture(scope="module")
def older(tmp_path_factory) -> Path:
    """What an MLflow left that lacks the newest of the installed one's migrations, with an experiment in it."""
    path = tmp_path_factory.mktemp("older") / "mlflow.db"
    url = f"sqlite:///{path}"
    engine = sqlalchemy.create_engine(url)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        config = utils._get_alembic_config(url)
        config.attributes["connection"] = connection
        command.upgrade(config, f"{head()}-1")
    engine.dispose()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("insert into experiments (experiment_id, name, lifecycle_stage) values (7, 'strokes', 'active')")
    path.chmod(0o600)
    return path


@pytest.fixture
def left(older, tmp_path) -> Path:
    """A copy of it, in a state folder whose path holds what means something in an address."""
    path = tmp_path / "why? 50% #1 [x]" / "mlflow" / "mlflow.db"
    path.parent.mkdir(parents=True)
    return Path(shutil.copy(older, path))


def head() -> str:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(Path(utils.__file__).parents[1] / "db_migrations")).get_current_head()


def asked(path: Path, question: str) -> object:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(question).fetchone()[0]


def schema(path: Path) -> str:
    return asked(path, "select version_num from alembic_version")


@pytest.mark.slow
def test_it_is_upgraded_and_the_copy_from_before_is_named(left, capsys):
    before = schema(left)
    assert database.is_older(left) and before != head()
    MLflow(left.parents[1]).prepare()
    said = capsys.readouterr().out.splitlines()
    copy = Path(said[-1].partition("before: ")[2])
    assert said[0] == f"MLflow  upgrading  {left}, which an older MLflow wrote"
    assert copy.parent == left.parent
    assert (schema(copy), schema(left)) == (before, head())
    for path in (copy, left):
        assert asked(path, "select name from experiments where experiment_id = 7") == "strokes"
        assert path.stat().st_mode & 0o077 == 0
    assert {path.name for path in left.parent.iterdir()} == {"mlflow.db", copy.name}
    MLflow(left.parents[1]).prepare()
    assert capsys.readouterr().out == "", "an upgraded one is let be"


def test_one_that_cannot_be_upgraded_stays_as_it_was(left, monkeypatch):
    content = left.read_bytes()
    failed = subprocess.CompletedProcess([], 1, "", "a line\nno such revision\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(StepError, match=r"db, .* is as it was: .*\n    a line\n    no such revision\nCorrect that"):
        database.upgrade(left)
    assert left.read_bytes() == content
    assert [path.name for path in left.parent.iterdir()] == ["mlflow.db"]


def test_one_of_a_newer_mlflow_is_named(left):
    with closing(sqlite3.connect(left)) as db, db:
        db.execute("update alembic_version set version_num = 'from the future'")
    with pytest.raises(StepError, match=r"written by a newer MLflow than the .* schema from the future is unknown"):
        database.is_older(left)


def test_what_is_no_database_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database, and long enough to be taken for one" * 50)
    with pytest.raises(StepError, match=r"mlflow\.db cannot be read \(file is not a database\)"):
        database.is_older(tmp_path / "mlflow.db")


@pytest.mark.parametrize("there", [True, False])
def test_an_empty_one_is_not_older(there, tmp_path):
    if there:
        (tmp_path / "mlflow.db").touch()
    assert not database.is_older(tmp_path / "mlflow.db")
