"""An agent of one's own: a student that is shown the training questions most like the one it is asked.

python examples/own_agent.py
"""

from collections.abc import Sequence
from typing import Any

from docendo import Engine, SamplingParams, Student, evals
from docendo.records import Example, Message, PublicItem


class WellReadStudent(Student):
    """Shows itself solved training questions that share most words with the question."""

    def __init__(self, engine: Engine, library: Sequence[Example], *, most: int = 4, **settings: Any) -> None:
        super().__init__(engine, **settings)
        self.library, self.most = library, most

    def messages(self, item: PublicItem, **fields: Any) -> tuple[Message, ...]:
        """The nearest examples, then the question."""
        words = set(item.question.split())
        near = sorted(self.library, key=lambda example: -len(words & set(example.question.split())))
        return Student.messages(self.shown(near[: self.most]), item, **fields)

    def shown(self, examples: Sequence[Example]) -> Student:
        """The student it would be with fixed examples."""
        return Student(self.engine, system=self.system, sampling=self.sampling, examples=examples)


def main(model: str = "smollm2-135m-instruct", train: int = 100, test: int = 200) -> None:
    task = evals.tasks("reasoning_gym:chain_sum", train=train, test=test, max_terms=3, max_digits=1)
    short = SamplingParams(max_tokens=16)
    with Engine.load(model) as engine:
        plain = evals.evaluate(Student(engine, sampling=short), task.test, scorer=task.scorer, name="plain")
        student = WellReadStudent(engine, task.examples(train // 2, steps=False), sampling=short)
        read = evals.evaluate(student, task.test, scorer=task.scorer, name="well read")
    print(evals.compare(plain, read))


if __name__ == "__main__":
    main()
