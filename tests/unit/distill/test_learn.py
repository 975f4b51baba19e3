"""From data to a promotion or a reason against it; sabotage is refused; nothing in flight is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from docendo import evals
from docendo.agents import Engine, ScriptedEngine, Student, Verifier, models
from docendo.distill import (
    UCB,
    Adapter,
    AdapterRegistry,
    Gate,
    GateLedger,
    Round,
    TrainConfig,
    consider,
    expert_iteration,
    learn,
    merge_adapters,
    train,
)
from docendo.distill.datasets._lineage import data_digest
from docendo.distill.rounds._promotion import Promoter
from docendo.distill.rounds._scheduler import RandomScheduler
from docendo.errors import AdapterError, ConfigError, DataError, LeakError, ResumeError, SilentNoOp
from docendo.evals import ExactScorer, Task
from docendo.graphs import demonstrate
from docendo.manifest import write_manifest
from docendo.records import Author, Item, Request, SamplingParams, Trace

# peft 0.21 reads a property that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

COLOURS = {"red": 1, "blue": 2, "green": 3, "white": 4}
QUICK = TrainConfig(
    max_steps=2, learning_rate=1e-2, per_device_train_batch_size=4, lora_r=4, dtype="float32", save_steps=0
)


def answer_of(item: Item) -> int:
    return COLOURS[item.public.question.split()[0]]


def rows_of(items: tuple[Item, ...], answer: Callable[[Item], object] = answer_of) -> list[dict[str, Any]]:
    student = Student(ScriptedEngine([]))
    return [
        {
            "prompt": list(student.messages(item.public)),
            "completion": [{"role": "assistant", "content": f"Answer: {answer(item)}"}],
            "item": item.id,
        }
        for item in items
    ]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """What number a colour stands for: can be learnt, and answered for numbers that were never seen."""
    rows = [{"question": f"{c} {n}", "answer": str(a)} for n in range(60) for c, a in COLOURS.items()]
    file = tmp_path_factory.mktemp("task") / "colours.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return evals.tasks(str(file), train=80, test=80, dev=20)


@pytest.fixture(scope="module")
def adapters(tiny_model_dir: Path, task: Task, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    folder = tmp_path_factory.mktemp("adapters")
    return [
        train(
            tiny_model_dir,
            rows_of(task.train[:8]),
            output=folder / str(n),
            config=QUICK.replace(seed=n),
            quiet=True,
        )
        for n in range(2)
    ]


class Skilled(ScriptedEngine):
    """Serves the tiny model's fingerprint; each adapter, by its SHA-256, is right on a share of the items."""

    def __init__(self, tiny: Path, task: Task, skill: dict[str | None, float]) -> None:
        self.skill = skill
        golds = {item.id: answer_of(item) for item in (*task.train, *task.dev, *task.test)}
        order = {item.id: n for n, item in enumerate(task.test)}

        def answer(request: Request) -> str:
            item = request.origin.item
            place = order.get(item, 0) % 10
            right = place < 10 * self.skill.get(self.adapter_hash(request.adapter), 0.0)
            teaches = request.origin.role == "teacher"
            return f"Answer: {golds[item] if right or teaches else 9}"

        super().__init__(answer)
        self.fingerprint = models.fingerprint(models.resolve(tiny))


@pytest.fixture
def skilled(tiny_model_dir: Path, task: Task, adapters: list[Adapter]) -> Skilled:
    """The base is right on 1 in 10, the first adapter on 7, the second on 8."""
    return Skilled(tiny_model_dir, task, {None: 0.1, adapters[0].sha256: 0.7, adapters[1].sha256: 0.8})


@pytest.fixture
def options(task: Task, tmp_path: Path) -> dict[str, Any]:
    return {
        "tasks": task,
        "folder": tmp_path / "learn",
        "registry": tmp_path / "registry",
        "gate": Gate(size=40),
        "quiet": True,
    }


def test_a_better_candidate_is_promoted_and_served(
    skilled: Skilled, adapters: list[Adapter], task: Task, options: dict[str, Any]
) -> None:
    student = Student(skilled)
    result = consider(student, adapters[0], rows_of(task.train[:8]), **options)
    assert result.promoted
    assert result.served == "student"
    assert skilled.adapters() == {"student": adapters[0].sha256}
    registry = AdapterRegistry(options["registry"])
    assert registry.get("student@prod").sha256 == adapters[0].sha256
    (move,) = registry.history("student@prod")
    assert move.verdict is not None
    assert not move.forced
    assert move.verdict["comparison"]["n"] == 40
    written = json.loads((options["folder"] / "verdict.json").read_text())
    assert written == json.loads(json.dumps(result.summary()))
    assert str(result).startswith("promoted to student@prod: The candidate is better: +60.0 points")


def test_what_is_no_better_is_kept_out_and_the_incumbent_stays(
    skilled: Skilled, adapters: list[Adapter], task: Task, options: dict[str, Any]
) -> None:
    """Against 70 % right, 80 % on 40 other items are no evidence."""
    rows = rows_of(task.train[:8])
    consider(Student(skilled), adapters[0], rows, **options)
    result = consider(
        Student(skilled), adapters[1], rows, **{**options, "folder": options["folder"].with_name("second")}
    )
    assert not result.promoted
    assert result.served is None
    assert result.verdict.gate == 2
    assert result.verdict.incumbent == adapters[0].sha256
    assert str(result).startswith("student@prod is kept as it was: No effect shown: +10.0 points")
    assert AdapterRegistry(options["registry"]).get("student@prod").sha256 == adapters[0].sha256
    assert skilled.adapters() == {"student": adapters[0].sha256}
    first, second = GateLedger(options["registry"]).records("student@prod")
    assert not set(first.questions) & set(second.questions)


def test_a_gate_that_decided_is_believed_and_asks_nobody_again(
    skilled: Skilled, adapters: list[Adapter], task: Task, options: dict[str, Any]
) -> None:
    rows = rows_of(task.train[:8])
    first = consider(Student(skilled), adapters[0], rows, **options)
    asked = len(skilled.requests)
    with pytest.raises(ResumeError):
        consider(Student(skilled), adapters[0], rows, **options)
    again = consider(Student(skilled), adapters[0], rows, resume=True, **options)
    assert again.verdict.to_json() == first.verdict.to_json()
    assert len(skilled.requests) == asked
    assert len(GateLedger(options["registry"]).records()) == 1
    assert len(AdapterRegistry(options["registry"]).history("student@prod")) == 1


@pytest.mark.parametrize("at", ["judge", "promote"])
def test_killed_at_the_gate_it_goes_on_with_the_same_items(
    skilled: Skilled,
    adapters: list[Adapter],
    task: Task,
    options: dict[str, Any],
    at: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    rows = rows_of(task.train[:8])
    with monkeypatch.context() as patch:
        patch.setattr(Gate if at == "judge" else AdapterRegistry, at, killed)
        with pytest.raises(KeyboardInterrupt):
            consider(Student(skilled), adapters[0], rows, **options)
    assert not AdapterRegistry(options["registry"]).history("student@prod")
    asked = len(skilled.requests)
    result = consider(Student(skilled), adapters[0], rows, resume=True, **options)
    assert result.promoted
    assert len(skilled.requests) == asked, "every answer was kept"
    assert len(GateLedger(options["registry"]).records()) == 1


def test_without_a_registry_the_engine_alone_is_changed(
    skilled: Skilled, adapters: list[Adapter], task: Task, options: dict[str, Any]
) -> None:
    other = Skilled.__new__(Skilled)
    vars(other).update(vars(skilled))
    other._adapters = {}
    result = consider(
        Student(skilled), adapters[0], rows_of(task.train[:8]), engine=other, **{**options, "registry": None}
    )
    assert result.promoted
    assert other.adapters() == {"student": adapters[0].sha256}
    assert skilled.adapters() == {}
    assert (options["folder"] / "gates.json").is_file()


@pytest.mark.parametrize("at", ["judge", "promote"])
def test_a_gate_does_not_go_on_elsewhere_with_what_it_was_not_opened_for(
    skilled: Skilled,
    adapters: list[Adapter],
    task: Task,
    options: dict[str, Any],
    at: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before its verdict and after it: neither another prompt, nor another scorer, nor a kinder gate."""

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    rows = rows_of(task.train[:8])
    with monkeypatch.context() as patch:
        patch.setattr(Gate if at == "judge" else AdapterRegistry, at, killed)
        with pytest.raises(KeyboardInterrupt):
            consider(Student(skilled), adapters[0], rows, **options)
    asked = len(skilled.requests)
    changes: list[tuple[Student, dict[str, Any], str]] = [
        (Student(skilled, prompt="Think. {question}"), {}, "another prompt of the student"),
        (Student(skilled), {"tasks": replace(task, scorer=ExactScorer(ignore_case=True))}, "another scorer"),
        (Student(skilled), {"gate": Gate(size=40, alpha=0.5)}, "another alpha"),
    ]
    for number, (student, change, words) in enumerate(changes):
        elsewhere = options["folder"].with_name(str(number))
        with pytest.raises(ResumeError, match=words):
            consider(student, adapters[0], rows, **{**options, "folder": elsewhere, **change})
    assert len(skilled.requests) == asked
    assert not AdapterRegistry(options["registry"]).history("student@prod")
    elsewhere = options["folder"].with_name("same")
    assert consider(Student(skilled), adapters[0], rows, **{**options, "folder": elsewhere}).promoted


# --- sabotage -------------------------------------------------------------------------------------


def test_an_engine_that_serves_other_weights_is_found_out(
    skilled: Skilled, adapters: list[Adapter], task: Task, options: dict[str, Any]
) -> None:
    load = skilled.load_adapter
    skilled.load_adapter = lambda name, path: load(name, adapters[1].path)  # type: ignore[method-assign]
    with pytest.raises(SilentNoOp, match="which was to be loaded"):
        consider(Student(skilled), adapters[0], rows_of(task.train[:8]), **options)
    assert not AdapterRegistry(options["registry"]).history("student@prod")
    assert skilled.adapters() == {}


def test_wrong_weights_do_not_stay_where_there_is_no_registry(
    skilled: Skilled, adapters: list[Adapter], task: Task, options: dict[str, Any]
) -> None:
    other = Skilled.__new__(Skilled)
    vars(other).update(vars(skilled))
    other._adapters = {}
    load = other.load_adapter
    other.load_adapter = lambda name, path: load(name, adapters[1].path)  # type: ignore[method-assign]
    with pytest.raises(SilentNoOp, match="it was dropped"):
        consider(
            Student(skilled), adapters[0], rows_of(task.train[:8]), engine=other,
            **{**options, "registry": None},
        )  # fmt: skip
    assert other.adapters() == {}


def test_an_adapter_that_is_loaded_and_not_applied_shows_nothing(
    skilled: Skilled, adapters: list[Adapter], task: Task, options: dict[str, Any]
) -> None:
    skilled.skill[adapters[0].sha256] = skilled.skill[None]
    result = consider(Student(skilled), adapters[0], rows_of(task.train[:8]), **options)
    assert not result.promoted
    assert "word for word" in result.verdict.reason


def test_the_incumbent_is_no_candidate(
    skilled: Skilled, adapters: list[Adapter], task: Task, options: dict[str, Any]
) -> None:
    registry = AdapterRegistry(options["registry"])
    registry.add(adapters[0], "student")
    registry.promote("student", "prod", force=True, reason="by hand")
    with pytest.raises(SilentNoOp, match="serves already"):
        consider(Student(skilled), adapters[0], rows_of(task.train[:8]), **options)
    assert not skilled.requests
    with pytest.raises(AdapterError, match="not promoted"):
        registry.promote("student", "prod", verdict={"verdict": "no effect shown", "reason": "?"})


def test_rows_with_a_held_out_question_are_refused_before_anything_is_trained(
    skilled: Skilled, tiny_model_dir: Path, task: Task, options: dict[str, Any]
) -> None:
    leaked = rows_of((*task.train[:4], task.test[3]))
    del leaked[-1]["item"]  # by its text alone
    with pytest.raises(LeakError, match="row 4"):
        learn(Student(skilled), leaked, model=tiny_model_dir, config=QUICK, **options)
    kept = Task(name="kept", test=task.train[:2])
    with pytest.raises(LeakError):
        learn(
            Student(skilled),
            rows_of(task.train[:4]),
            model=tiny_model_dir,
            config=QUICK,
            **{**options, "gate": Gate(regression=kept), "folder": options["folder"].with_name("b")},
        )
    assert not (options["folder"] / "candidate").exists()
    assert not options["registry"].exists()


def test_traces_are_learnt_from_and_those_of_test_items_refused(
    skilled: Skilled, tiny_model_dir: Path, task: Task, options: dict[str, Any]
) -> None:
    def turn(item: Item, text: str = "") -> Trace:
        return Trace(
            id=f"t-{item.id}",
            run="r",
            item=item.id,
            split=item.public.split,
            author=Author(agent="teacher", role="teacher"),
            messages=({"role": "user", "content": "teach"},),
            completion=text or f"Answer: {answer_of(item)}",
            rewards={"verified": 1.0},
        )

    result = learn(
        Student(skilled), map(turn, task.train[8:16]), model=tiny_model_dir, config=QUICK, **options
    )
    assert result.adapter.manifest["data"]["examples"] == 8
    assert not result.promoted, "the skill of these weights is 0"
    elsewhere = {**options, "folder": options["folder"].with_name("leak")}
    with pytest.raises(LeakError):
        learn(Student(skilled), map(turn, task.test[:2]), model=tiny_model_dir, config=QUICK, **elsewhere)


def test_a_learning_rate_of_zero_is_no_candidate(
    skilled: Skilled, tiny_model_dir: Path, task: Task, options: dict[str, Any]
) -> None:
    with pytest.raises(SilentNoOp, match="no LoRA weight"):
        learn(
            Student(skilled),
            rows_of(task.train[:8]),
            model=tiny_model_dir,
            config=QUICK.replace(learning_rate=0.0),
            **options,
        )
    assert not options["registry"].exists()
    assert not skilled.requests


def test_rows_of_another_training_say_nothing_about_this_adapter(
    skilled: Skilled, adapters: list[Adapter], task: Task, options: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match="trained on other rows"):
        consider(Student(skilled), adapters[0], rows_of(task.train[:7]), **options)


def test_an_alias_that_moved_meanwhile_is_left_alone(
    skilled: Skilled,
    adapters: list[Adapter],
    task: Task,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = AdapterRegistry(options["registry"])
    judge = Gate.judge

    def meanwhile(*given: Any, **more: Any) -> Any:
        registry.add(adapters[1], "student")
        registry.promote(adapters[1].sha256, "student@prod", force=True, reason="somebody else")
        return judge(*given, **more)

    monkeypatch.setattr(Gate, "judge", meanwhile)
    with pytest.raises(AdapterError, match="moved to"):
        consider(Student(skilled), adapters[0], rows_of(task.train[:8]), **options)
    assert registry.get("student@prod").sha256 == adapters[1].sha256


def test_two_that_beat_the_same_incumbent_at_once_do_not_both_take_its_place(
    skilled: Skilled,
    adapters: list[Adapter],
    task: Task,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other one is promoted after the alias was looked at, and before it is moved."""
    registry, promote = AdapterRegistry(options["registry"]), AdapterRegistry.promote
    registry.add(adapters[1], "student")

    def late(self: AdapterRegistry, *given: Any, **more: Any) -> Any:
        promote(registry, adapters[1].sha256, "student@prod", force=True, reason="somebody else")
        return promote(self, *given, **more)

    monkeypatch.setattr(AdapterRegistry, "promote", late)
    with pytest.raises(AdapterError, match="over the base model"):
        consider(Student(skilled), adapters[0], rows_of(task.train[:8]), **options)
    assert registry.get("student@prod").sha256 == adapters[1].sha256


def test_a_gate_is_between_the_two_that_it_was_opened_for(
    skilled: Skilled,
    adapters: list[Adapter],
    task: Task,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The alias moves before the incumbent is asked; no verdict is recorded on what it moved to."""
    registry, begin = AdapterRegistry(options["registry"]), GateLedger.open
    registry.add(adapters[1], "student")

    def meanwhile(self: GateLedger, *given: Any, **more: Any) -> Any:
        registry.promote(adapters[1].sha256, "student@prod", force=True, reason="somebody else")
        return begin(self, *given, **more)

    monkeypatch.setattr(GateLedger, "open", meanwhile)
    with pytest.raises(AdapterError, match="moved to"):
        consider(Student(skilled), adapters[0], rows_of(task.train[:8]), **options)
    (record,) = GateLedger(options["registry"]).records()
    assert record.verdict is None


def test_what_was_rolled_back_does_not_come_back_by_its_old_verdict(
    skilled: Skilled, adapters: list[Adapter], task: Task, options: dict[str, Any]
) -> None:
    registry = AdapterRegistry(options["registry"])
    registry.add(adapters[1], "student")
    registry.promote("student", "prod", force=True, reason="by hand")
    skilled.skill[adapters[1].sha256] = 0.1
    rows = rows_of(task.train[:8])
    assert consider(Student(skilled), adapters[0], rows, **options).promoted
    registry.rollback("student@prod", reason="slower on long sums")
    with pytest.raises(AdapterError, match="slower on long sums"):
        consider(Student(skilled), adapters[0], rows, resume=True, **options)
    assert registry.get("student@prod").sha256 == adapters[1].sha256


def test_candidates_that_share_an_engine_do_not_answer_for_each_other(
    skilled: Skilled,
    adapters: list[Adapter],
    task: Task,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second learns from beginning to end while the first is being asked."""
    rows, judge = rows_of(task.train[:8]), Promoter._ask
    skilled.skill[adapters[0].sha256] = 0.1
    loaded: list[dict[str, str]] = []

    def meanwhile(self: Any, *given: Any, **more: Any) -> Any:
        loaded.append(skilled.adapters())
        if len(loaded) == 1:
            other = options | {"folder": options["folder"].with_name("other"), "incumbent": "student@next"}
            consider(Student(skilled), adapters[1], rows, **other)
            assert skilled.adapters().items() >= loaded[0].items()
        return judge(self, *given, **more)

    monkeypatch.setattr(Promoter, "_ask", meanwhile)
    result = consider(Student(skilled), adapters[0], rows, **options)
    assert not result.promoted
    assert result.verdict.adapter == adapters[0].sha256


def test_an_engine_of_another_base_is_found_before_the_alias_moves(
    skilled: Skilled, adapters: list[Adapter], task: Task, options: dict[str, Any]
) -> None:
    with pytest.raises(AdapterError, match="base model"):
        consider(Student(skilled), adapters[0], rows_of(task.train[:8]), engine=ScriptedEngine([]), **options)
    assert not AdapterRegistry(options["registry"]).history("student@prod")


def remade(adapter: Adapter, folder: Path, **facts: Any) -> Adapter:
    """The same adapter with another origin in its manifest."""
    shutil.copytree(adapter.path, folder)
    plain = {key: value for key, value in adapter.manifest.items() if key not in ("files", "sha256")}
    write_manifest(folder, {**plain, **facts})
    return Adapter.open(folder)


@pytest.mark.parametrize(
    "bad",
    [{"tasks": None}, {"gate": None}, {"registry": 5}, {"rows": None}, {"rows": [1]}, {"parents": [1]}],
    ids=str,
)
def test_what_is_of_another_type_is_one_clear_line(
    skilled: Skilled, adapters: list[Adapter], task: Task, options: dict[str, Any], bad: dict[str, Any]
) -> None:
    given = {"rows": rows_of(task.train[:8]), **options, **bad}
    with pytest.raises((ConfigError, DataError), match=f"{next(iter(bad))}.* is "):
        consider(Student(skilled), adapters[0], **given)
    assert not skilled.requests


def test_data_of_another_type_are_one_clear_line(
    skilled: Skilled, tiny_model_dir: Path, options: dict[str, Any]
) -> None:
    for data in (None, "rows", [1]):
        with pytest.raises(DataError, match=r"data.* is "):
            learn(Student(skilled), data, model=tiny_model_dir, **options)  # type: ignore[arg-type]


def test_what_its_parents_learnt_from_is_checked_as_well(
    skilled: Skilled, adapters: list[Adapter], task: Task, options: dict[str, Any], tmp_path: Path
) -> None:
    rows, held_out = rows_of(task.train[:8]), rows_of(task.test[:8])
    child = remade(adapters[1], tmp_path / "child", parent=adapters[0].sha256)
    with pytest.raises(DataError, match=f"parent {adapters[0].sha256[:12]}"):
        consider(Student(skilled), child, rows, **options)
    cheat = remade(adapters[0], tmp_path / "cheat", data={"digest": data_digest(held_out), "items": 8})
    with pytest.raises(LeakError, match="excluded item"):
        consider(Student(skilled), child, rows, parents=[(cheat, held_out)], **options)
    assert not skilled.requests
    assert consider(
        Student(skilled), child, rows, parents=[(adapters[0].path, rows)], resume=True, **options
    ).promoted


def test_a_merged_candidate_comes_with_the_rows_of_its_parts(
    skilled: Skilled, adapters: list[Adapter], task: Task, options: dict[str, Any], tmp_path: Path
) -> None:
    rows = rows_of(task.train[:8])
    merged = merge_adapters([one.path for one in adapters], output=tmp_path / "merged")
    skilled.skill[merged.sha256] = 0.8
    with pytest.raises(DataError, match="parent"):
        consider(Student(skilled), merged, [], parents=[(adapters[0], rows)], **options)
    result = consider(Student(skilled), merged, [], parents=[(one, rows) for one in adapters], **options)
    assert result.promoted


# --- real models ----------------------------------------------------------------------------------


@contextmanager
def in_flight(engine: Engine, count: int) -> Iterator[list[Any]]:
    """Long requests to what is served as "student", submitted before the block and waited for after it."""
    sampling = SamplingParams(max_tokens=150, ignore_eos=True)
    request = Request(prompt="red 1", sampling=sampling, adapter="student")
    futures = [engine.submit(request) for _ in range(count)]
    results: list[Any] = []
    yield results
    results.extend(future.result(timeout=120) for future in futures)


def test_a_swap_drops_no_request_that_is_running(
    tiny_model_dir: Path, adapters: list[Adapter], tmp_path: Path
) -> None:
    """Those in flight end with the weights they began with; the next one has the new ones."""
    from docendo.distill.rounds._promotion import Promoter

    task = Task(name="t", test=(evals.make_item("?", 1),))
    with Engine.load(tiny_model_dir) as engine:
        engine.load_adapter("student", adapters[0].path)
        student = Student(engine).with_adapter("student")
        promoter = Promoter(
            student=student, tasks=task, gate=Gate(), alias=None, registry=None, engine=None, folder=tmp_path
        )
        verdict = _better(adapters[1].sha256, adapters[0].sha256)
        with in_flight(engine, 6) as results:
            promoter._promote(adapters[1], verdict, adapters[0].sha256)
            assert engine.adapters() == {"student": adapters[1].sha256}
        assert [result.adapter for result in results] == [adapters[0].sha256] * 6
        assert {len(result.completions[0].token_ids) for result in results} == {150}
        after = engine.generate(
            Request(prompt="red 1", sampling=SamplingParams(max_tokens=2), adapter="student")
        )
        assert after.adapter == adapters[1].sha256


def _better(candidate: str, incumbent: str | None) -> Any:
    from docendo.distill import GateVerdict

    return GateVerdict(
        verdict="better",
        reason="by hand",
        adapter=candidate,
        incumbent=incumbent,
        gate=1,
        alpha=0.025,
        comparison={},
    )


@pytest.mark.slow
def test_a_tiny_model_that_learns_is_promoted_and_one_that_does_not_is_kept_out(
    guessing_model_dir: Path, task: Task, tmp_path: Path
) -> None:
    """Colours are learnt, and the gate opens. The same again from another seed, and it does not."""
    config = QUICK.replace(max_steps=60, learning_rate=5e-3, per_device_train_batch_size=16, lora_r=8)
    options: dict[str, Any] = {
        "tasks": task, "registry": tmp_path / "registry", "gate": Gate(size=40), "quiet": True
    }  # fmt: skip
    with Engine.load(guessing_model_dir) as engine:
        student = Student(engine, sampling=SamplingParams(max_tokens=12))
        first = learn(student, rows_of(task.train), folder=tmp_path / "first", config=config, **options)
        assert first.promoted, str(first)
        assert first.verdict.comparison["difference"] > 0.3
        assert engine.adapters() == {"student": first.adapter.sha256}
        with in_flight(engine, 4) as results:
            second = learn(
                student.with_adapter("student"),
                rows_of(task.train),
                folder=tmp_path / "second",
                config=config.replace(seed=1),
                **options,
            )
        assert not second.promoted, str(second)
        assert second.adapter.sha256 != first.adapter.sha256
        assert second.verdict.alpha == pytest.approx(0.05 / 6)
        assert [result.adapter for result in results] == [first.adapter.sha256] * 4
        assert AdapterRegistry(tmp_path / "registry").get("student@prod").sha256 == first.adapter.sha256
        assert engine.adapters() == {"student": first.adapter.sha256}


@pytest.mark.slow
def test_expert_iteration_learns_from_its_own_verified_answers_and_resumes(
    guessing_model_dir: Path, task: Task, tmp_path: Path
) -> None:
    config = QUICK.replace(max_steps=12, learning_rate=5e-3, per_device_train_batch_size=8)
    with Engine.load(guessing_model_dir) as engine:
        student = Student(engine, sampling=SamplingParams(max_tokens=12))

        def go(rounds: int, resume: bool) -> Any:
            return expert_iteration(
                student,
                task,
                folder=tmp_path / "expert",
                rounds=rounds,
                samples=6,
                scheduler=RandomScheduler(task.train, size=30),
                config=config,
                resume=resume,
                quiet=True,
            )

        one = go(1, False)
        assert [row.round for row in one.rows] == [0, 1]
        assert one.rows[0].adapter is None
        assert one.rows[1].adapter == Adapter.open(tmp_path / "expert" / "round-1" / "adapter").sha256
        two = go(2, True)
        assert two.rows[:2] == one.rows
        again = go(2, True)
        assert again.digest == two.digest
        exams = [
            json.loads((tmp_path / "expert" / f"round-{n}" / "exam.json").read_text())["result"]
            for n in (1, 2)
        ]
        assert [exam["items"] for exam in exams] == [30, 30]
        data = json.loads((tmp_path / "expert" / "round-2" / "build.json").read_text())["result"]
        assert (
            data["rows"]
            > json.loads((tmp_path / "expert" / "round-1" / "build.json").read_text())["result"]["rows"]
        )
        assert two.tokens > 0


def test_a_round_whose_training_came_out_otherwise_goes_on_from_there(
    skilled: Skilled, adapters: list[Adapter], task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainings are stood in for by adapters that are there; which one is decided below."""
    made = {1: adapters[0], 2: adapters[1]}

    def fitted(_: Any, __: Any, *, output: Path, **___: Any) -> Adapter:
        adapter = made[int(output.parent.name.removeprefix("round-"))]
        shutil.copytree(adapter.path, output, dirs_exist_ok=True)
        return Adapter.open(output)

    monkeypatch.setattr("docendo.distill.training._train.train", fitted)
    folder = tmp_path / "expert"
    options: dict[str, Any] = {"folder": folder, "rounds": 2, "samples": 1, "model": "none", "quiet": True}
    student = Student(skilled)
    first = expert_iteration(student, task, **options)
    (folder / "round-1" / "fit.json").unlink()
    assert expert_iteration(student, task, resume=True, **options).digest == first.digest
    made[1] = adapters[1]
    (folder / "round-1" / "fit.json").unlink()
    again = expert_iteration(student, task, resume=True, **options)
    assert again.digest != first.digest
    assert [row.adapter for row in again.rows] == [None, adapters[1].sha256, adapters[1].sha256]


def test_a_teacher_may_teach_in_the_rounds_and_the_curriculum_hears_of_the_student_alone(
    skilled: Skilled, tiny_model_dir: Path, task: Task, tmp_path: Path
) -> None:
    given = []

    def taught(learner: Student, round: Round) -> Any:
        given.append((round.number, learner.author.adapter))
        teacher = Student(skilled, role="teacher", sampling=SamplingParams(n=2, temperature=1.0))
        return demonstrate(teacher=teacher, verifier=Verifier(task.scorer))

    report = expert_iteration(
        Student(skilled),
        task,
        folder=tmp_path / "r",
        rounds=2,
        scheduler=UCB(task.train, size=20),
        graph=taught,
        model=tiny_model_dir,
        config=QUICK,
        quiet=True,
    )
    assert given == [(1, None), (2, report.rows[1].adapter)]
    heard = json.loads((tmp_path / "r" / "round-2" / "feedback.json").read_text())["result"]
    assert heard["samples"] == 0
    assert set(heard["scheduler"]["seen"].values()) == {0}
    built = [
        json.loads((tmp_path / "r" / f"round-{n}" / "build.json").read_text())["result"]["rows"]
        for n in (1, 2)
    ]
    # The teacher says one thing to an item: 20 items, and those of the second round that are new.
    new = len({*plan(task, 1)} - {*plan(task, 0)})
    assert built == [20, 20 + new]


def plan(task: Task, step: int) -> tuple[str, ...]:
    return UCB(task.train, size=20).plan(step).items


def test_expert_iteration_needs_items_to_measure_by(skilled: Skilled, task: Task, tmp_path: Path) -> None:
    without = Task(name="t", train=task.train, test=task.test)
    with pytest.raises(DataError, match="development"):
        expert_iteration(Student(skilled), without, folder=tmp_path / "r", model="x")
