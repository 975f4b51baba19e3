"""A scorer of one's own: an estimate counts if it is within ten per cent.

python examples/own_scorer.py
"""

from docendo import Engine, SamplingParams, Student, evals
from docendo.records import Item
from docendo.scoring import Score, Scorer

QUESTIONS = {
    "How many days are in a year?": 365,
    "How many minutes are in an hour?": 60,
    "At how many degrees Celsius does water boil?": 100,
    "How many centimetres are in a metre?": 100,
    "How many weeks are in a year?": 52,
    "How many hours are in a week?": 168,
}


class Estimate(Scorer):
    """Right within ten per cent; the value falls with the relative error. Only a scorer opens the gold."""

    name = "estimate"

    def score(self, item: Item, text: str) -> Score:
        """Compares the last number in the text; never raises on text that has none."""
        parsed = evals.read_answer(text.replace(",", ""), numeric=True)
        if parsed is None:
            return Score(correct=False, value=0.0)
        gold = float(self.open(item).text)
        error = abs(float(parsed) - gold) / gold
        return Score(correct=error <= 0.1, value=max(0.0, 1.0 - error), parsed=parsed)

    def leaks(self, item: Item, text: str) -> bool:
        """A hint gives the answer away if it states it."""
        return self.score(item, text).correct


def main(model: str = "smollm2-135m-instruct") -> None:
    items = [evals.make_item(question, answer) for question, answer in QUESTIONS.items()]
    with Engine.load(model) as engine:
        student = Student(engine, sampling=SamplingParams(max_tokens=24))
        result = evals.evaluate(student, items, scorer=Estimate(), name="estimates")
    for record in result.records:
        print(f"{record.question:<48} {record.parsed or '-':>8}  {'right' if record.correct else 'wrong'}")
    print(result)


if __name__ == "__main__":
    main()
