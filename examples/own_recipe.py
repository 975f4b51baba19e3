"""A recipe of one's own: do solved examples help, and is it what they say that helps?

docendo recipes run examples/own_recipe.py --scale tiny
docendo run examples/own_recipe.py

In-context learning (Brown et al. 2020, arXiv 2005.14165). The control shows the same examples with each
other's answers, which keeps the form and takes the information away (Min et al. 2022, arXiv 2202.12837).
"""

from dataclasses import dataclass
from pathlib import Path

from docendo import Engine, SamplingParams, Student, evals
from docendo.evals import Scores, Trial, experiment, gain
from docendo.records import Record
from docendo.registry import recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class SolvedExamples(Record):
    """Settings.

    Attributes:
        model: Whom to ask.
        test: Number of questions.
        examples: Solved examples in the prompt.
        seed: First seed, of questions and examples.
        seeds: Number of seeds.
    """

    model: str = "smollm2-135m-instruct"
    test: int = 200
    examples: int = 4
    seed: int = 0
    seeds: int = 5


@recipe(
    id="solved-examples",
    title="Solved examples in the prompt",
    paper="Brown et al. 2020, arXiv 2005.14165",
    claim="A model answers more sums with solved ones in its prompt than without, and than with wrong ones.",
    config=SolvedExamples,
    cost="half a minute a seed on two cores",
    scales={"tiny": {"test": 12, "seeds": 2}},
)
@experiment(
    gain("examples", over="none"),
    gain("examples", over="examples, answers exchanged"),
)
def solved_examples(config: SolvedExamples, *, seed: int, folder: Path, quiet: bool) -> Trial:
    """Asks the same questions in three ways."""
    task = evals.tasks(
        "reasoning_gym:chain_sum", train=50, test=config.test, seed=seed, max_terms=3, max_digits=1
    )
    shown = task.examples(config.examples, steps=False)
    exchanged = [
        example.replace(answer=other.answer)
        for example, other in zip(shown, [*shown[1:], *shown[:1]], strict=True)
    ]
    arms = {}
    with Engine.load(config.model) as engine:
        for name, examples in (
            ("none", ()),
            ("examples", shown),
            ("examples, answers exchanged", exchanged),
        ):
            student = Student(engine, sampling=SamplingParams(max_tokens=16), examples=examples)
            result = evals.evaluate(student, task.test, scorer=task.scorer, name=name, quiet=quiet)
            arms[name] = Scores.of(result)
    return Trial(arms=arms)
