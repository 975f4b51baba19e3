"""RunStore: resuming with the same configuration alone, and each item once."""

import pytest

from docendo.errors import DataError, IntegrityError, ResumeError
from docendo.memory import Database, RunStore, verify

CONFIG = {"seed": 0, "model": {"name": "small", "stop": ("\n",)}, "rate": 1.0}


@pytest.fixture
def runs(database_url):
    with RunStore.open(database_url) as opened:
        yield opened


def test_a_run_from_start_to_end(runs):
    row = runs.start("demo", CONFIG, resume=False)
    assert (row.run, row.status, row.items) == ("demo", "running", 0)
    assert row.config == {"seed": 0, "model": {"name": "small", "stop": ["\n"]}, "rate": 1.0}
    assert runs.finish_item("demo", "b", {"correct": True}) == {"correct": True}
    assert runs.finish_item("demo", "a", {"correct": None}) == {"correct": None}
    assert runs.finish_item("demo", "a", {"correct": False}) == {"correct": None}
    assert list(runs.finished("demo").items()) == [("a", {"correct": None}), ("b", {"correct": True})]
    ended = runs.end("demo", "finished")
    assert (ended.status, ended.items) == ("finished", 2)
    assert ended == runs.get("demo") == runs.list()[0]
    assert ended.updated >= ended.created == row.created


def test_resuming_goes_on(runs, database_url):
    runs.start("demo", CONFIG, resume=False)
    runs.finish_item("demo", "a", {})
    runs.end("demo", "interrupted")
    runs.close()
    with RunStore.open(database_url) as reopened:
        row = reopened.start("demo", CONFIG, resume=True)
        assert (row.status, row.items) == ("running", 1)
        assert reopened.finished("demo") == {"a": {}}


def test_resuming_what_never_started_starts_it(runs):
    assert runs.start("demo", CONFIG, resume=True).items == 0


def test_an_existing_run_is_not_begun_again(runs):
    runs.start("demo", CONFIG, resume=False)
    runs.finish_item("demo", "a", {})
    message = r"run 'demo' exists already \(running, 1 items finished\); resume it .*--resume.* another name"
    with pytest.raises(ResumeError, match=message):
        runs.start("demo", CONFIG, resume=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0, is 1 now;"),
        ({"model": {"name": "large", "stop": ("\n",)}}, 'model.name was "small", is "large" now;'),
        ({"new": None}, "new was not set, is null now;"),
        ({"rate": 1}, "rate was 1.0, is 1 now;"),
        ({"seed": False}, "seed was 0, is false now;"),
        ({"model": None, "seed": 2}, 'model was {"name":"small".*, is null now, seed was 0, is 2 now;'),
        ({f"x{n}": n for n in range(9)}, "x5 was not set, is 5 now and 3 more;"),
    ],
)
def test_another_configuration_is_refused_and_named(runs, change, message):
    runs.start("demo", CONFIG, resume=False)
    runs.end("demo", "failed")
    with pytest.raises(ResumeError, match=f"another configuration: .*{message}"):
        runs.start("demo", {**CONFIG, **change}, resume=True)
    assert runs.get("demo").status == "failed"


def test_a_removed_setting_is_named(runs):
    runs.start("demo", CONFIG, resume=False)
    with pytest.raises(ResumeError, match=r"rate was 1\.0, is not set now"):
        runs.start("demo", {"seed": 0, "model": CONFIG["model"]}, resume=True)


def test_runs_are_listed_oldest_first(runs):
    for name in ("z", "a", "m"):
        runs.start(name, {}, resume=False)
    assert [row.run for row in runs.list()] == ["z", "a", "m"]


def test_mistakes_are_named(runs):
    runs.start("demo", {}, resume=False)
    with pytest.raises(DataError, match="there is no run 'nope'"):
        runs.finish_item("nope", "a", {})
    with pytest.raises(DataError, match="there is no run 'nope'"):
        runs.end("nope", "finished")
    with pytest.raises(DataError, match="there is no run 'nope'"):
        runs.get("nope")
    with pytest.raises(DataError, match="status is 'done'; expected one of running, finished"):
        runs.end("demo", "done")
    with pytest.raises(DataError, match=r"config\.a\[0\] is a set"):
        runs.start("other", {"a": [set()]}, resume=False)
    with pytest.raises(DataError, match="the item's id is empty"):
        runs.finish_item("demo", "", {})
    with pytest.raises(DataError, match="the run's name is empty"):
        runs.start("", {}, resume=False)
    assert runs.finished("nope") == {}


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE docendo_runs SET config = '{\"seed\":1}'", "run 'demo' does not match"),
        ("UPDATE docendo_runs SET status = 'finished'", "run 'demo' does not match"),
        ("UPDATE docendo_items SET outcome = '{\"correct\":true}'", "outcome of item 'a' in run 'demo'"),
    ],
)
def test_damage_is_an_error_and_named(runs, statement, message):
    runs.start("demo", {"seed": 0}, resume=False)
    runs.finish_item("demo", "a", {"correct": False})
    assert runs.verify().ok
    with runs.database.transaction() as connection:
        connection.exec_driver_sql(statement)

    def read():
        runs.start("demo", {"seed": 0}, resume=True)
        runs.finished("demo")

    with pytest.raises(IntegrityError, match=message):
        read()
    assert len(runs.verify().damage) == 1


def test_verify_covers_the_whole_database(database_url):
    with Database.open(database_url) as database:
        runs = RunStore(database)
        runs.start("demo", {}, resume=False)
        runs.finish_item("demo", "a", {})
        assert all(report.ok for report in verify(database))
        with database.transaction() as connection:
            connection.exec_driver_sql("DELETE FROM docendo_runs")
        damage = [str(entry) for report in verify(database) for entry in report.damage]
        assert damage == ["outcome (demo a): its run is missing"]
