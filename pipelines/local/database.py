"""Upgrade the database of the embedded MLflow to the schema of the installed MLflow."""

import datetime
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import distribution, version
from pathlib import Path

from components.core.errors import StepError

MIGRATIONS = "mlflow/store/db_migrations"


def is_older(database: Path) -> bool:
    """Return whether an older MLflow wrote the database; False where it is missing or empty.

    Raises:
        StepError: a newer MLflow wrote it, or it is not a database.
    """
    schema = _schema(database)
    if schema is None:
        return False
    from alembic.script import ScriptDirectory  # a second of imports, for MLflow's migrations

    script = ScriptDirectory(str(distribution("mlflow").locate_file(MIGRATIONS)))
    if schema not in {revision.revision for revision in script.walk_revisions()}:
        raise StepError(
            f"{database} was written by a newer MLflow than the {version('mlflow')} that is installed: its schema "
            f"{schema} is unknown. Use the checkout that wrote it, or move the file away to start with an empty one."
        )
    return schema != script.get_current_head()


def upgrade(database: Path) -> Path:
    """Upgrade the database, and return the path of a copy from before. A failed upgrade leaves the file unchanged.

    Raises:
        StepError: it cannot be upgraded, or the disk has not enough room for the copies.
    """
    fresh = database.with_suffix(".new")
    before = database.with_name(f"{database.stem}-before-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}.db")
    try:
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        with closing(sqlite3.connect(database)) as old, closing(sqlite3.connect(fresh)) as new:
            old.backup(new)
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{fresh.name}"]
        done = subprocess.run(command, cwd=fresh.parent, capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise OSError("\n    ".join(["mlflow db upgrade failed:", *done.stderr.strip().splitlines()[-8:]]))
        shutil.copy2(database, before)
        fresh.replace(database)
    except (OSError, sqlite3.Error) as error:
        fresh.unlink(missing_ok=True)
        raise StepError(
            f"{database}, which an older MLflow wrote, cannot be upgraded and is as it was: {error}\n"
            "Correct that, or move the file away to start with an empty one, and run make up again"
        ) from error
    return before


def _schema(database: Path) -> str | None:
    """Return the revision of the schema, as alembic recorded it; None for an empty database."""
    if not database.exists():
        return None
    try:
        with closing(sqlite3.connect(database)) as db:
            if not db.execute("select 1 from sqlite_master where name = 'alembic_version'").fetchone():
                return None
            row = db.execute("select version_num from alembic_version").fetchone()
    except sqlite3.Error as error:
        raise StepError(
            f"{database} cannot be read ({error}). Restore a copy, or move it away to start with an empty one"
        ) from error
    return row and row[0]
