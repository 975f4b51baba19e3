"""A tutoring graph over one small model: opens in `langgraph dev`, runs with `docendo run`.

docendo run examples/tutoring.py:graph --task reasoning_gym:chain_sum --set max_terms=3 --limit 20
"""

from typing import Any

from docendo import Engine, SamplingParams, Student, Teacher, Tutor, Verifier, evals, graphs


def graph() -> Any:
    engine = Engine.load("smollm2-135m-instruct")
    task = evals.tasks("reasoning_gym:chain_sum", train=8, min_terms=2, max_terms=3, max_digits=1)
    teacher = Teacher(
        engine,
        examples=task.examples(8, steps=False),
        sampling=SamplingParams(n=16, temperature=0.8, max_tokens=12),
    )
    return graphs.tutoring(
        student=Student(engine), tutor=Tutor(engine), teacher=teacher, verifier=Verifier(task.scorer)
    )
