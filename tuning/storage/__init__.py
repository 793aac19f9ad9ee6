"""Storage of a study: a journal file, or a database that many machines share."""

from __future__ import annotations

import importlib.util
import re
import time
from pathlib import Path
from urllib.parse import quote, quote_plus

from optuna.storages import BaseStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError

from tuning.storage.database import Patience, PatientDatabase, open_database
from tuning.storage.journal import open_journal

JOURNALS = (".log", ".journal")
#: Drivers by database, the preferred first: the module, what SQLAlchemy calls it, and what to install.
DRIVERS = {
    "sqlite": (("sqlite3", "", ""),),
    "postgresql": (("psycopg", "psycopg", "psycopg[binary]"), ("psycopg2", "psycopg2", "psycopg2-binary")),
    "mysql": (("pymysql", "pymysql", "pymysql"), ("MySQLdb", "mysqldb", "mysqlclient")),
}
HIDDEN = "***"
TABLE_ATTEMPTS, TABLE_PAUSE = 4, 0.5
#: A shorter password is hidden in URLs only: it would be found in every other word.
LEAST_SECRET = 4


class Address:
    """A storage as the user gave it, and how to speak of it: never with its password."""

    def __init__(self, text: str):
        self.path: Path | None = None
        self.url: URL | None = None
        if "://" not in text:
            if not text.endswith(JOURNALS) or Path(text).is_dir():
                raise _unknown_storage(text)
            self.path = Path(text).absolute()
        else:
            self.url = _with_driver(text)

    @property
    def is_journal(self) -> bool:
        """True for a file of our own kind, which is no database."""
        return self.path is not None

    @property
    def is_sqlite(self) -> bool:
        """True for an SQLite file, which several writers get into each other's way with."""
        return self.url is not None and self.url.get_backend_name() == "sqlite"

    def __str__(self) -> str:
        if self.url is None:
            return str(self.path)
        secret = {key: HIDDEN for key in self.url.query if "pass" in key.lower()}
        return self.url.update_query_dict(secret).render_as_string(hide_password=True)

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def hide(self, text: str) -> str:
        """A text with ``***`` in the password's place, whether it is written plainly or in a URL."""
        if self.url is None:
            return text
        secrets = [str(self.url.password)] if self.url.password else []
        for key, value in self.url.query.items():
            if "pass" in key.lower():
                secrets += [value] if isinstance(value, str) else list(value)
        for secret in secrets:
            for form in {secret, quote(secret, safe=""), quote_plus(secret)}:
                if len(form) >= LEAST_SECRET:
                    text = text.replace(form, HIDDEN)
                text = text.replace(f":{form}@", f":{HIDDEN}@")
        return text


def _unknown_storage(text: str) -> ValueError:
    hidden = re.sub(r"//.*@", f"//{HIDDEN}@", text)
    return ValueError(
        f"storage must be a file that ends in .log or .journal, or a URL that begins with sqlite:///, postgresql:// or "
        f"mysql://, got {hidden!r}"
    )


def _with_driver(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # Not "from": SQLAlchemy's own message may hold a piece of the password.
        raise _unknown_storage(text) from None
    backend = url.get_backend_name()
    if backend not in DRIVERS:
        raise _unknown_storage(text)
    if "+" in url.drivername:
        name = url.drivername.partition("+")[2]
        drivers = tuple(driver for driver in DRIVERS[backend] if driver[1] == name) or ((name, name, name),)
    else:
        drivers = DRIVERS[backend]
    for module, name, _ in drivers:
        if importlib.util.find_spec(module) is not None:
            return url.set(drivername=f"{backend}+{name}" if name else backend)
    hidden = url.render_as_string(hide_password=True)
    raise ValueError(f"storage {hidden!r} needs a driver that is not installed: pip install '{drivers[0][2]}'")


def open_storage(
    address: Address, heartbeat: int, patience: Patience, must_exist: bool = False, was_open: bool = False
) -> BaseStorage:
    """The storage, opened: a journal's torn end is repaired first, a database is waited for when it goes away.

    ``heartbeat`` is in seconds. With ``must_exist`` a file that is not there is an error, and not made. A database that
    ``was_open`` before and does not answer now is waited for; any other is a mistake in the address.
    """
    file = address.path
    if address.url is not None and address.is_sqlite and address.url.database not in (None, "", ":memory:"):
        file = Path(str(address.url.database))
    if file is not None:
        if must_exist and not file.exists():
            raise ValueError(f"storage must be a file that exists, got {str(file)!r}")
        file.absolute().parent.mkdir(parents=True, exist_ok=True)
    if address.path is not None:
        return open_journal(address.path)
    assert address.url is not None
    try:
        if was_open:
            return patience.call(_open_database, address.url, heartbeat, patience)
        return _open_database(address.url, heartbeat, patience)
    except (SQLAlchemyError, ImportError, RuntimeError) as error:
        reason = address.hide(str(getattr(error, "orig", None) or error)).strip().splitlines()
        raise ValueError(
            f"storage must be a database that can be opened, got {str(address)!r}: {reason[0] if reason else error!r}"
        ) from None


def _open_database(url: URL, heartbeat: int, patience: Patience) -> PatientDatabase:
    for _ in range(TABLE_ATTEMPTS):
        try:
            return open_database(url, heartbeat, patience)
        except (IntegrityError, ProgrammingError):
            # Another machine makes the tables of an empty database at this very moment.
            time.sleep(TABLE_PAUSE)
    return open_database(url, heartbeat, patience)


def is_database(storage: BaseStorage) -> bool:
    """True if heartbeats are Optuna's own, by the database's clock; also of the cache that Optuna puts around it."""
    return isinstance(getattr(storage, "_backend", storage), PatientDatabase)
