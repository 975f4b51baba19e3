"""PostgreSQL: URLs, errors that say what to do, restarts, forks, many processes, read-only."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from docendo.errors import ConfigError, DataError, IntegrityError, StorageError
from docendo.memory import Blackboard, Database, Journal, RunStore
from docendo.memory.storage import _database as module
from docendo.records import Author

AUTHOR = Author(agent="student", role="student")


@pytest.fixture
def database(postgresql_url):
    with Database.open(postgresql_url) as opened:
        yield opened


@pytest.fixture
def away(postgres_cluster, monkeypatch):
    """The server, and little patience with it; it runs again afterwards."""
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.3)
    yield postgres_cluster
    if not postgres_cluster.running:
        postgres_cluster.start()


@pytest.fixture
def own(postgres_cluster, postgres_databases):
    """Makes databases on our own server, the one that may be restarted."""
    databases = type(postgres_databases)(postgres_cluster.url("postgres"))
    yield lambda options="": postgres_cluster.url(databases.create(options))
    databases.drop_all()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_usual_urls_are_taken(postgresql_url, scheme):
    with Journal.open(postgresql_url.replace("postgresql", scheme, 1)) as journal:
        assert journal.put("k", {"v": 1}) == {"v": 1}
        assert journal.database.path is None
        assert journal.database.label.startswith("postgresql://")


def test_another_driver_is_refused():
    with pytest.raises(ConfigError, match=r"driver of postgresql\+psycopg2 is not supported; expected postg"):
        Database.open("postgresql+psycopg2://host/name")


def test_a_server_that_is_not_there():
    begun = time.monotonic()
    with pytest.raises(StorageError, match=r"cannot reach postgresql://user@127\.0\.0\.1:1/name .*refused"):
        Database.open("postgresql://user:hunter2@127.0.0.1:1/name?password=hunter2")
    assert time.monotonic() - begun < module._PATIENCE_SECONDS


def test_a_database_that_is_not_there(postgres_cluster):
    with pytest.raises(DataError, match=r"there is no database at postgresql://docendo@/absent.*createdb"):
        Database.open(postgres_cluster.url("absent"))


def test_passwords(postgres_cluster, own):
    name = database_name(own())
    with sa.create_engine(
        postgres_cluster.url(name).replace("postgresql", "postgresql+psycopg", 1),
        isolation_level="AUTOCOMMIT",
    ).connect() as connection:
        connection.exec_driver_sql("DROP ROLE IF EXISTS ann")
        connection.exec_driver_sql("CREATE ROLE ann LOGIN PASSWORD 'right'")
        connection.exec_driver_sql("GRANT CREATE ON SCHEMA public TO ann")
    connection.engine.dispose()

    def url(password, user="ann"):
        return postgres_cluster.network_url(name, user=user, password=password)

    with Journal.open(url("right")) as journal:
        journal.put("k", {})
        assert "right" not in journal.database.label
    for password, user in (("wrong-secret", "ann"), ("wrong-secret", "nobody-known")):
        with pytest.raises(StorageError, match="the server refused user and password") as caught:
            Database.open(url(password, user))
        assert "wrong-secret" not in str(caught.value)
    with pytest.raises(StorageError, match="asks for a password"):
        Database.open(url("").replace(":@", "@"))


def test_a_role_without_rights(postgres_cluster, own):
    url = own()
    admin = Database.open(url)
    with admin.transaction() as connection:
        connection.exec_driver_sql("DROP ROLE IF EXISTS bob")
        connection.exec_driver_sql("CREATE ROLE bob LOGIN")
    admin.close()
    with pytest.raises(StorageError, match="the role lacks a permission"):
        Database.open(url.replace("docendo@", "bob@"))


def test_text_with_nul_is_refused_and_nothing_stored(database):
    journal = Journal(database)
    with pytest.raises(DataError, match=r"cannot store a value .*NUL"), database.transaction() as connection:  # noqa: PT012 - the block is what is tested
        journal.put("k", {})
        connection.exec_driver_sql("INSERT INTO docendo_meta VALUES (%s, %s)", ("a\x00b", ""))
    assert journal.get("k") is None


def test_a_row_that_is_there_already(database):
    with pytest.raises(IntegrityError, match="refused a row"), database.transaction() as connection:
        connection.exec_driver_sql("INSERT INTO docendo_meta VALUES ('schema', '1')")


def test_a_key_too_long_for_an_index(database):
    journal = Journal(database)
    long = "".join(f"{number * 7919 % 10007}-" for number in range(4000))
    with pytest.raises(DataError, match="cannot index a name or key of this length"):
        journal.put(long, {})
    journal.put("k", {})


def test_another_encoding_is_refused(own):
    with pytest.raises(ConfigError, match="has the encoding SQL_ASCII; expected UTF8; create it with"):
        Database.open(own("ENCODING 'SQL_ASCII' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0"))


@pytest.mark.parametrize("how", ["option", "role"])
def test_read_only(postgresql_url, database, postgres_databases, how):
    Journal(database).put("k", {"v": 1})
    if how == "option":
        with Journal.open(postgresql_url, read_only=True) as journal:
            assert journal.get("k") == {"v": 1}
            with pytest.raises(StorageError, match="it was opened read-only"):
                journal.put("l", {})
            mark = journal.database.mark()
            Journal(database).put("l", {"v": 2})
            assert journal.database.wait(mark, 5.0)
            assert journal.get("l") == {"v": 2}
        return
    name = database_name(postgresql_url)
    postgres_databases.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(StorageError, match="it is read-only; connect to the primary"):
        Journal.open(postgresql_url).put("l", {})
    with Journal.open(postgresql_url, read_only=True) as journal:
        assert journal.get("k") == {"v": 1}


def test_reading_an_empty_database_makes_no_tables(postgresql_url):
    for options in ({"read_only": True}, {"create": False}):
        with pytest.raises(DataError, match="holds no docendo tables"):
            Database.open(postgresql_url, **options)


def test_a_statement_that_takes_too_long(database):
    with pytest.raises(StorageError, match="stopped a statement"), database.transaction() as connection:  # noqa: PT012 - the block is what is tested
        connection.exec_driver_sql("SET LOCAL statement_timeout = 50")
        connection.exec_driver_sql("SELECT pg_sleep(5)")
    assert Journal(database).put("k", {"v": 1}) == {"v": 1}


def test_a_lock_held_too_long(postgresql_url, database, monkeypatch):
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.2)
    with Journal.open(postgresql_url) as other:
        with database.transaction(), pytest.raises(StorageError, match="another process has kept it locked"):
            other.put("k", {})
        other.put("k", {})


def test_an_error_that_was_swallowed_does_not_commit(database):
    """PostgreSQL answers COMMIT with a rollback then, and says so in a word that nobody reads."""
    with pytest.raises(StorageError), database.transaction() as connection:  # noqa: PT012 - the block is what is tested
        connection.exec_driver_sql("INSERT INTO docendo_meta VALUES ('a', 'b')")
        with pytest.raises(sa.exc.SQLAlchemyError):
            connection.exec_driver_sql("SELECT * FROM no_such_table")
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM docendo_meta").scalar() == 1


@pytest.fixture
def kill_connections(postgresql_url, postgres_databases):
    """Makes the server close all connections to the test's database, as an administrator would."""
    name = database_name(postgresql_url)
    query = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    return lambda: postgres_databases.execute(query)


def database_name(url):
    return url.partition("?")[0].rpartition("/")[2]


def test_a_dropped_connection_is_made_again(database, kill_connections):
    journal = Journal(database)
    journal.put("k", {"v": 1})
    for _ in range(3):
        kill_connections()
        assert journal.get("k") == {"v": 1}
        kill_connections()
        journal.put("l", {"v": 2})


def test_a_connection_dropped_in_a_transaction_stores_nothing(database, kill_connections):
    journal = Journal(database)
    nothing = r"connection was lost .*nothing of the last transaction was stored"
    with pytest.raises(StorageError, match=nothing), database.transaction():  # noqa: PT012 - the block is what is tested
        journal.put("k", {})
        kill_connections()
        journal.put("l", {})
    assert journal.get("k") is None
    journal.put("k", {"v": 1})


def test_a_connection_dropped_before_the_commit_says_that_it_is_unknown(database, kill_connections):
    journal = Journal(database)
    unknown = "whether the last write was stored is not known"
    with pytest.raises(StorageError, match=unknown), database.transaction():  # noqa: PT012 - the block is what is tested
        journal.put("k", {})
        kill_connections()
    assert journal.put("k", {"v": 1}) == {"v": 1}


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGQUIT, marks=pytest.mark.slow)])
def test_a_server_that_restarts(postgres_cluster, own, how):
    with Blackboard.open(own()) as board:
        board.post("attempt", {}, author=AUTHOR, key="a")
        postgres_cluster.restart(how)
        assert [post.key for post in board.posts()] == ["a"]
        postgres_cluster.restart(how)
        board.post("attempt", {}, author=AUTHOR, key="b")
        # Away at the moment of use: waited for.
        postgres_cluster.stop(how)
        thread = threading.Timer(1.0, postgres_cluster.start)
        thread.start()
        board.post("attempt", {}, author=AUTHOR, key="c")
        thread.join()
        assert [post.seq for post in board.posts()] == [1, 2, 3]
        assert board.verify().ok


def test_a_server_that_stays_away_is_an_error_until_it_is_back(away, own):
    url = own()
    with Journal.open(url) as journal:
        journal.put("k", {"v": 1})
        mark = journal.database.mark()
        away.stop()
        with pytest.raises(StorageError, match="cannot reach"):
            journal.get("k")
        with pytest.raises(StorageError, match="cannot reach"):
            journal.database.wait(mark, 0.2)
        away.start()
        assert journal.get("k") == {"v": 1}
        assert journal.database.wait(mark, 5.0)  # what was committed meanwhile is unknown


def test_waiting_survives_a_restart(postgres_cluster, own):
    url = own()
    with Database.open(url) as database, Journal.open(url) as other, ThreadPoolExecutor() as pool:
        mark = database.mark()
        woken = pool.submit(database.wait, mark, 20.0)
        postgres_cluster.restart()
        assert woken.result(20)
        mark = database.mark()
        woken = pool.submit(database.wait, mark, 20.0)
        other.put("k", {})
        assert woken.result(5)


def test_a_full_disk_is_told():
    """A disk cannot be filled in a unit test: the server's own words, through the same function."""
    import psycopg

    error = sa.exc.OperationalError("INSERT", {}, psycopg.errors.DiskFull("could not extend file: No space"))
    told = module.explain(error, "postgresql://db/lab", busy_seconds=30)
    assert isinstance(told, StorageError)
    assert str(told) == (
        "cannot use postgresql://db/lab: the server's disk is full; free space there and resume"
    )


def test_many_processes_make_the_tables_together(postgresql_url):
    code = (
        "import sys\nfrom docendo.memory import Blackboard\nfrom docendo.records import Author\n"
        "board = Blackboard.open(sys.argv[1])\nauthor = Author(agent='a', role='student')\n"
        "for n in range(10):\n    board.post('attempt', {}, author=author, key=f'{sys.argv[2]}/{n}')\n"
        "    board.post('attempt', {}, author=author, key=f'shared/{n}')\n"
    )
    started = [subprocess.Popen([sys.executable, "-P", "-c", code, postgresql_url, str(n)]) for n in range(4)]
    assert [process.wait(120) for process in started] == [0] * 4
    with Blackboard.open(postgresql_url, read_only=True) as board:
        assert [post.seq for post in board.posts()] == list(range(1, 51))
        assert board.verify().ok


def test_threads_of_one_process_make_the_tables_together(postgresql_url):
    with ThreadPoolExecutor(6) as pool:
        for database in pool.map(lambda _: Database.open(postgresql_url), range(6)):
            database.close()


def sockets():
    """Sockets of this process; a connection to a server is one."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return {link for link in links if link.startswith("socket:")}


def in_child(work):
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
    return child


def test_a_fork_inherits_no_connection(postgresql_url):
    before = sockets()
    with Blackboard.open(postgresql_url) as board, ThreadPoolExecutor() as pool:
        board.post("attempt", {}, author=AUTHOR, key="before")
        mark = board.database.mark()
        waiting = pool.submit(board.database.wait, mark, 30.0)
        time.sleep(0.2)
        assert len(sockets() - before) == 2  # one to work with, one that listens

        def work():
            if sockets() - before:
                raise RuntimeError(f"inherited {sockets() - before}")
            mark = board.database.mark()
            board.post("attempt", {}, author=AUTHOR, key="child")
            if not board.database.wait(mark, 10.0):
                raise RuntimeError("the child was not told")

        child = in_child(work)
        assert waiting.result(30)
        for index in range(5):
            board.post("attempt", {}, author=AUTHOR, key=f"parent/{index}")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert {post.key for post in board.posts()} == {
            "before",
            "child",
            *(f"parent/{index}" for index in range(5)),
        }
        assert board.verify().ok


def test_a_fork_inside_a_transaction_leaves_the_parents_alone(postgresql_url):
    """Also where the child ends as Python programs do, collecting what it inherited."""
    code = (
        "import os, sys\nfrom docendo.errors import StorageError\nfrom docendo.memory import Journal\n"
        "journal = Journal.open(sys.argv[1])\n"
        "with journal.database.transaction():\n"
        "    journal.put('parent', {})\n"
        "    child = os.fork()\n"
        "    if child:\n"
        "        os.waitpid(child, 0)\n"
        "        journal.put('after', {})\n"
        "    else:\n"
        "        try:\n            journal.put('child', {})\n"
        "        except StorageError as error:\n            sys.exit('forked' not in str(error))\n"
        "        sys.exit(3)\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code, postgresql_url], check=True, timeout=60)
    with Journal.open(postgresql_url) as journal:
        assert journal.get("parent") == journal.get("after") == {}
        assert journal.get("child") is None


def test_the_clock_is_the_servers(database):
    before = database.now()
    with database.transaction() as connection:
        inside = database.now()
        stamp = connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())::float8").scalar()
    assert before < inside < stamp < database.now()
    assert abs(database.now() - time.time()) < 5


def test_order_does_not_depend_on_the_servers_language(postgresql_url):
    with RunStore.open(postgresql_url) as runs:
        runs.start("demo", {}, resume=False)
        for item in ("b", "B", "a", "_", "1"):
            runs.finish_item("demo", item, {})
        assert list(runs.finished("demo")) == ["1", "B", "_", "a", "b"]
