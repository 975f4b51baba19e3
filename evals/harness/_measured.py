"""What can be read off the samples and confidences of an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docendo.errors import DataError
from docendo.evals.harness._records import EvalRecord, Sample

if TYPE_CHECKING:
    from docendo.evals.metrics._calibration import Calibration
    from docendo.evals.metrics._coverage import CoverageRisk
    from docendo.evals.metrics._diversity import DiversityReport
    from docendo.evals.metrics._measures import Measure


class Measured:
    """Measures of a result's records. Items without an answer are left out, as they are of the accuracy."""

    __slots__ = ()
    records: tuple[EvalRecord, ...]

    def pass_at(self, k: int, **options: Any) -> Measure:
        """The chance that one of k samples is right; see `pass_at_k`, which takes the options.

        With k = 1 it is the accuracy over all samples, where `accuracy` is that of the first.
        """
        from docendo.evals.metrics._passk import pass_at_k

        return pass_at_k(self._right(), k, **options)

    def majority_at(self, k: int, **options: Any) -> Measure:
        """The chance that the most frequent answer of k samples is right; see `majority_at_k`."""
        from docendo.evals.metrics._passk import majority_at_k

        answers = [[sample.parsed for sample in samples] for samples in self._samples()]
        return majority_at_k(answers, self._right(), k, **options)

    def best_of(self, n: int, **options: Any) -> Measure:
        """The chance that the surest of n samples is right; see `best_of_n`.

        Raises:
            DataError: if a sample has no confidence.
        """
        from docendo.evals.metrics._passk import best_of_n

        sure = [[_confidence(sample) for sample in samples] for samples in self._samples()]
        return best_of_n(self._right(), sure, n, **options)

    def calibration(self, **options: Any) -> Calibration:
        """How well the confidences of all samples fit what is right; see `calibration`.

        Raises:
            DataError: if a sample has no confidence.
        """
        from docendo.evals.metrics._calibration import calibration

        return calibration(*self._confidences(), **options)

    def coverage_risk(self, **options: Any) -> CoverageRisk:
        """How the error falls if only the surest are answered; see `coverage_risk`.

        Raises:
            DataError: if a sample has no confidence.
        """
        from docendo.evals.metrics._coverage import coverage_risk

        return coverage_risk(*self._confidences(), **options)

    def diversity(self, *, vocabulary: int, **options: Any) -> DiversityReport:
        """How diverse the samples are; see `diversity`."""
        from docendo.evals.metrics._diversity import diversity

        samples = self._samples()
        texts = [[sample.text for sample in each] for each in samples]
        answers = [[sample.parsed for sample in each] for each in samples]
        return diversity(texts, vocabulary=vocabulary, answers=answers, **options)

    def _samples(self) -> list[tuple[Sample, ...]]:
        found = [record.samples for record in self.records if record.correct is not None]
        if not found:
            raise DataError("no item was answered", expected="at least one")
        return found

    def _right(self) -> list[list[bool]]:
        return [[bool(sample.correct) for sample in samples] for samples in self._samples()]

    def _confidences(self) -> tuple[list[float], list[bool]]:
        samples = [sample for each in self._samples() for sample in each]
        return [_confidence(sample) for sample in samples], [bool(sample.correct) for sample in samples]


def _confidence(sample: Sample) -> float:
    if sample.confidence is None:
        raise DataError(
            "an answer has no confidence", expected="answers of an engine that gives log-probabilities"
        )
    return sample.confidence
