"""`docendo lm-eval`: lm-eval's own command line, which has no other way to learn of a model."""

from __future__ import annotations

import sys

import typer

from docendo.errors import ConfigError

app = typer.Typer(name="lm-eval", add_completion=False)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "allow_interspersed_args": False,
        "ignore_unknown_options": True,
        "help_option_names": ["-h", "--help"],
    },
)
def command(context: typer.Context) -> None:
    """Run lm-eval's command line; `--model docendo` is the default.

    All arguments are lm-eval's, which `docendo lm-eval run --help` explains. Of its model_args, `pretrained`
    is a model's name and `adapter` a LoRA folder; DocendoLM explains the others.

    Example: docendo lm-eval --model_args pretrained=smollm2-135m-instruct --tasks arc_easy --limit 100
    """
    from docendo.evals import DocendoLM  # registers the model

    del DocendoLM
    from lm_eval.__main__ import cli_evaluate

    given = list(context.args)
    asks = any(word.split("=")[0] in ("--tasks", "-t", "--config", "-C") for word in given)
    named = any(word.split("=")[0] in ("--model", "-M") for word in given)
    if asks and not named and given[0] not in ("ls", "validate"):
        given += ["--model", "docendo"]
    before, sys.argv = sys.argv, ["lm-eval", *given]
    try:
        cli_evaluate()
    except ValueError as error:  # what lm-eval raises at arguments that it cannot use
        raise ConfigError(
            f"lm-eval: {error}", expected="arguments that it takes", remedy="see `docendo lm-eval ls tasks`"
        ) from error
    finally:
        sys.argv = before
