"""A tutoring graph: for `docendo run` and `langgraph dev`, with a model here or on a server.

docendo run examples/tutoring.py:graph --task reasoning_gym:chain_sum --set max_terms=3 --limit 20
langgraph dev --allow-blocking    (its input is {"item": ID}; python examples/tutoring.py prints the ids)

The environment variable TUTORING_MODEL names another model: a catalogue name, a folder, a hub id, or one on
an OpenAI-compatible server as KIND:ADDRESS#MODEL.
"""

import os

from docendo import SamplingParams, Student, Teacher, Tutor, Verifier, evals, graphs
from docendo.agents import open_engine

whole = evals.tasks("reasoning_gym:chain_sum", train=28, min_terms=2, max_terms=3, max_digits=1)
shown = whole.examples(8, steps=False)
task = whole.without(shown)


engine = open_engine(os.environ.get("TUTORING_MODEL", "smollm2-135m-instruct"))
teacher = Teacher(engine, examples=shown, sampling=SamplingParams(n=16, temperature=0.8, max_tokens=12))
graph = graphs.standalone(
    graphs.tutoring(
        student=Student(engine), tutor=Tutor(engine), teacher=teacher, verifier=Verifier(task.scorer)
    ),
    task.train,
)


if __name__ == "__main__":
    for item in task.train:
        print(item.id, item.public.question)
