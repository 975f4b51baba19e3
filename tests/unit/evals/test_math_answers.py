"""Answers that are compared as mathematics."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from docendo.errors import ConfigError, InfrastructureError, TaskFailure
from docendo.evals import MathScorer, evaluate, make_item
from docendo.evals.items import _math

SCORER = MathScorer()


def correct(gold, answer):
    return SCORER.score(make_item("What is it?", gold), answer).correct


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{1}{2}", "0.5"),
        ("1/2", r"\boxed{\frac12}"),
        ("x^2+2x+1", "Answer: $(x+1)^2$"),
        (r"\{1,2\}", r"\boxed{\{2,1\}}"),
        ("1000", "Answer: 1,000.0"),
        ("3", "so x is \\boxed{x=3}"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        (r"(1,2]", r"\boxed{(1,2]}"),
        ("12", r"first \boxed{7}, then \boxed{12}"),
        ("sqrt(2)/2", r"\boxed{\frac{1}{\sqrt2}}"),
        (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"),
        ("x**2+1", "1+x^2"),
        (r"\frac{\sin 2x}{2}", r"\sin x\cos x"),
        (r"\sqrt{x^2}", "|x|"),
        (r"e^{i\pi}", "-1"),
        ("3.5", "Answer: 3 1/2"),
        (r"\frac12", r"\boxed{50\%}"),
        ("10000", r"10\,000"),
        ("2^{100}", "1267650600228229401496703205376"),
        ("4", "x = 2 + 2 = 4"),
        ("2x+2y=4", "x+y=2"),
        ("-2x<4", "x>-2"),
        ("1<x<2", "2>x>1"),
        (r"x\ge 3", r"[3,\infty)"),
        (r"(-\infty,2]\cup[3,\infty)", r"x\le 2 \text{ or } x\ge 3"),
        (r"\mathbb{R}\setminus\{0\}", r"(-\infty,0)\cup(0,\infty)"),
        ("x=1,y=2", "y=2, x=1"),
        (r"\pm 2", "2,-2"),
        (r"\begin{pmatrix}0.5\\2\end{pmatrix}", r"\begin{pmatrix}\frac12\\2\end{pmatrix}"),
        (r"\text{no solution}", "No solution"),
        ("12", "So it is 12 in all."),
        ("no", r"\boxed{\text{No}}"),
        ("xy", r"\boxed{y \cdot x}"),
        ("A+B", "B+A"),
    ],
)
def test_what_is_equal_as_mathematics_is_right(gold, answer):
    assert correct(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("1000", "1005"),
        ("1/3", "0.3333"),
        (r"\frac{1}{3}", "0.333333"),
        (r"\frac{1}{3}", "0.333333333333333"),
        (r"\frac{1}{3}", "0." + "3" * 400),
        (r"\frac{x}{3}", "0.333333333333333x"),
        (r"\sqrt{2}", "1.41421356"),
        (r"\sqrt{2}", "1.41421356237309504880"),
        (r"\pi", "3.14159265358979323846264338327950288419716939937510"),
        ("2^{100}", "1267650600228229401496703205377"),
        ("10^{-20}", r"2\cdot 10^{-20}"),
        (r"\pi\cdot 10^{-300}", r"2\pi\cdot 10^{-300}"),
        ("x+10^{-20}", r"x+2\cdot 10^{-20}"),
        ("50", r"\boxed{50\%}"),
        ("5 cm", "5 m"),
        ("5", r"\boxed{5\text{ cm}}"),
        ("(1,2)", r"\{1,2\}"),
        ("(1,2)", "1,2"),
        ("(1,2)", "(2,1)"),
        ("12", r"\boxed{7 \text{ or } 12}"),
        ("7", "Answer: $12$ or $7$"),
        ("3", r"\boxed{7=3}"),
        ("4", r"\boxed{x=2+2=5=4}"),
        ("x^2+1=0", "x^2+5=0"),
        ("x^2=4", "x=2"),
        ("-2x<4", "x<-2"),
        (r"x\le 2", "x<2"),
        ("x=3", "y=3"),
        (r"\sqrt{x^2}", "x"),
        ("3", r"\boxed{1 2}"),
        ("2", "Answer: 3 1/2"),
        ("0", r"\boxed{1\,000}"),
        ("101", r"\boxed{101_2}"),
        ("1/2", r"\boxed{a\frac{1}{2}}"),
        (r"\frac{1}{0}", r"\frac{2}{0}"),
        ("east", "seat"),
        ("(1,2)", "[1,2]"),
        ("x+1", "x+2"),
        ("12", r"\boxed{7}"),
        ("12", ""),
        ("12", r"\boxed{}"),
        ("12", "__import__('os').getpid()"),
        ("no", "on"),
        ("A", "a"),
        ("A+B", "a+b"),
        (r"\Delta", r"\delta"),
    ],
)
def test_what_is_only_near_is_wrong(gold, answer):
    assert not correct(gold, answer)


@pytest.mark.parametrize(
    "answer",
    [
        r"9^{9^{9^{9^9}}}",
        pytest.param("1000000000!", marks=pytest.mark.slow),
        pytest.param(r"\sum_{k=1}^{10^{12}} k^k", marks=pytest.mark.slow),
        pytest.param(r"\binom{10^9}{5\cdot 10^8}", marks=pytest.mark.slow),
        pytest.param(r"\int e^{x^2}\ln(x)\sin x dx", marks=pytest.mark.slow),
        pytest.param(r"\lfloor 10^{10^{7}}\pi\rfloor", marks=pytest.mark.slow),
        pytest.param(r"2^{2^{2^{2^{2^{2}}}}}", marks=pytest.mark.slow),
    ],
)
def test_an_answer_that_would_take_for_ever_is_wrong_in_time(answer):
    score = MathScorer(seconds=0.5).score(make_item("What is it?", "x+1"), rf"\boxed{{{answer}}}")
    assert (score.correct, score.failure) == (False, "comparing took longer than 0.5 s")
    assert correct("x+1", "1+x")  # and the next one is compared


@pytest.mark.parametrize("answer", ["(" * 900 + "x" + ")" * 900, r"\sqrt{" * 99 + "2" + "}" * 99])
def test_an_answer_of_many_brackets_is_not_even_read(answer):
    assert SCORER.score(make_item("What is it?", "x+1"), answer).failure == "the answer is too nested"


def test_the_process_that_compares_may_not_take_all_memory():
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_AS)[0])"
    program = f"from docendo.evals.items import _math_worker as w; w.sys.stdin = []; w.main(); {code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 2 << 30


def test_an_interrupted_comparison_does_not_answer_the_next_question(monkeypatch):
    assert correct("x+1", "1+x")

    def interrupt():
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_math.select, "poll", interrupt)
        with pytest.raises(KeyboardInterrupt):
            correct("x+1", "1+x")
    assert not correct("x+1", "x+2")
    assert correct("x+1", "1+x")


def end_on(monkeypatch, number, *, times):
    """Lets a signal end the process as soon as it is asked, so many times."""
    send, left = _math._send, [None] * times

    def ending(process, gold, answer):
        if left and gold != "1":
            left.pop()
            process.send_signal(signal.SIGSTOP)
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)  # what is stopped dies of nothing but SIGKILL
            process.wait()
        send(process, gold, answer)

    monkeypatch.setattr(_math, "_send", ending)


def test_a_process_that_somebody_ended_is_asked_once_more(monkeypatch):
    end_on(monkeypatch, signal.SIGKILL, times=1)
    assert correct("x+1", "1+x")
    end_on(monkeypatch, signal.SIGKILL, times=1)
    assert not correct("x+1", "x+2")


def test_a_process_that_is_ended_again_and_again_is_the_machine_s_failure(monkeypatch):
    end_on(monkeypatch, signal.SIGKILL, times=2)
    item = make_item("What is it?", "x+1")
    result = evaluate(lambda asked: "1+x", [item], scorer=SCORER, quiet=True)
    assert result.records[0].correct is None
    assert result.records[0].failure.startswith(
        "infrastructure: InfrastructureError: the process that compares"
    )


def test_an_answer_that_makes_the_process_crash_is_wrong(monkeypatch):
    end_on(monkeypatch, signal.SIGABRT, times=2)
    score = SCORER.score(make_item("What is it?", "x+1"), "x+3")
    assert (score.correct, score.failure) == (False, "comparing it crashes")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_while_another_thread_compares_can_score():
    assert correct("x+1", "1+x")
    _math._WORKER._process.send_signal(signal.SIGSTOP)
    thread = threading.Thread(target=correct, args=("x+1", "1+x"))
    thread.start()
    while not _math._WORKER._lock.locked():
        time.sleep(0.001)
    child = os.fork()
    if not child:
        signal.alarm(60)  # ends a child that waits for ever
        os._exit(0 if correct("x+2", "2+x") and not correct("x+2", "x+1") else 1)
    _math._WORKER._process.send_signal(signal.SIGCONT)
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    assert correct("x+1", "1+x")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Answer: B", True),
        (r"\boxed{\text{B}}", True),
        ("Answer: (B)", True),
        ("Answer: on", True),
        ("Answer: no", False),
        ("Answer: b", False),
        ("B*1", False),
    ],
)
def test_choices_are_compared_as_text(answer, right):
    item = make_item("Which is a preposition?", "B", choices=["no", "on"])
    assert SCORER.score(item, answer).correct is right


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_compares_in_a_process_of_its_own():
    assert correct("x+1", "1+x")
    process = _math._WORKER._process
    child = os.fork()
    if not child:
        os._exit(0 if correct("x+2", "2+x") and _math._WORKER._process is not process else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert _math._WORKER._process is process
    assert correct("x+1", "1+x")


def test_a_process_that_cannot_start_is_the_machine_s_failure(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(_math.sys, "executable", "/bin/false")
        _math._WORKER.stop()
        with pytest.raises(InfrastructureError, match="did not start"):
            correct("x+1", "1+x")
    assert correct("x+1", "1+x")


def test_an_answer_of_a_book_is_no_answer():
    score = SCORER.score(make_item("What is it?", "x+1"), "Answer: " + "x+" * 3000)
    assert score.failure == "the answer is too long"


def test_any_thread_may_score():
    found = []
    threads = [threading.Thread(target=lambda: found.append(correct("x+1", "1+x"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


def test_a_hint_that_states_the_answer_leaks():
    item = make_item("What is 2/4?", r"\frac{1}{2}")
    assert SCORER.leaks(item, r"It is \frac{1}{2}.")
    assert SCORER.leaks(item, r"It is \boxed{0.5}.")
    assert not SCORER.leaks(item, "Divide both by two.")


@pytest.mark.parametrize("gold", ["$", "?", r"\text{}", r"\begin{cases} a"])
def test_a_gold_that_is_no_mathematics_is_the_task_s_failure(gold):
    item = make_item("What is it?", gold)
    with pytest.raises(TaskFailure, match="cannot be read as mathematics"):
        SCORER.score(item, "7")
    result = evaluate(lambda asked: "7", [item], scorer=SCORER, quiet=True)
    assert result.records[0].correct is None
    assert result.records[0].failure.startswith("task: ")


def test_what_cannot_be_scored_at_all_is_refused():
    with pytest.raises(ConfigError, match="has no reference answer"):
        SCORER.score(make_item("What is it?", None), "7")
    for seconds in (0, 1e300):
        with pytest.raises(ConfigError, match="seconds is"):
            MathScorer(seconds=seconds)
