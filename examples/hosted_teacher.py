"""A large model on a server teaches a small one here.

python examples/hosted_teacher.py vllm:http://127.0.0.1:8000/v1#Qwen/Qwen3-8B

Any OpenAI-compatible server will do (vllm, sglang, llama.cpp, transformers, openai); a key comes from the
environment variable DOCENDO_API_KEY. Only the teacher's answers cross the network, and only verified ones are
learnt from.
"""

import sys
from contextlib import closing

import docendo
from docendo import Engine, SamplingParams, Student, Teacher, Verifier, distill, evals, graphs
from docendo.agents import open_engine


def main(
    teacher: str,
    student: str = "smollm2-135m-instruct",
    train: int = 200,
    test: int = 200,
    steps: int = 50,
) -> None:
    task = evals.tasks("reasoning_gym:chain_sum", train=train, test=test, max_terms=3, max_digits=1)
    with closing(open_engine(teacher)) as large, Engine.load(student) as small:
        learner = Student(small, sampling=SamplingParams(max_tokens=24))
        before = evals.evaluate(learner, task.test, scorer=task.scorer, name="before")
        graph = graphs.demonstrate(
            teacher=Teacher(large, sampling=SamplingParams(n=4, temperature=0.8, max_tokens=64)),
            verifier=Verifier(task.scorer),
        )
        taught = docendo.run(graph, task.train, name="hosted-teacher")
        rows = distill.sft_dataset(taught.traces(), student=learner, items=task.train, exclude=task.test)
        adapter = distill.train(
            student, rows, output="adapters/hosted", config=distill.TrainConfig(max_steps=steps)
        )
        small.load_adapter("taught", adapter.path)
        after = evals.evaluate(learner.with_adapter("taught"), task.test, scorer=task.scorer, name="after")
    print(evals.compare(before, after))


if __name__ == "__main__":
    main(*sys.argv[1:])
