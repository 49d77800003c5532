"""`condprep.verify`: every pair of a dataset is opened once, measured and judged; nothing in the dataset is changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from condprep import __version__
from condprep.annotators.registry import canonical
from condprep.dataset.pairs.first import FirstPairs
from condprep.dataset.pairs.open import Pair, Pairs, reopen
from condprep.dataset.pairs.table import TablePairs
from condprep.dataset.reader import schema, take
from condprep.dataset.remote import here
from condprep.errors import CondprepError, UsageError, WeightsError
from condprep.runtime.concurrency import lots, ordered_map, usable_cores
from condprep.runtime.files import commit
from condprep.runtime.folder import check_suffix, check_utf8, lies_in
from condprep.runtime.opencv import one_thread_each
from condprep.runtime.own import remove
from condprep.runtime.progress import Progress
from condprep.runtime.quiet import quiet_pillow
from condprep.verification.alignment.checks import ALIGNMENT, reannotating, summary
from condprep.verification.check import Context, Group, Scores, configure
from condprep.verification.findings import Finding, VerifyResult, keep, scores_path
from condprep.verification.groups import choose_groups
from condprep.verification.groups import groups as all_groups
from condprep.verification.opened import memory_of, open_pair, under_way
from condprep.verification.reannotate import Comparer, SampleSize, find_comparer
from condprep.verification.tokens import VOCABULARY, TokenCounter
from condprep.verification.unfinished import Unfinished
from condprep.weights.find import Weights

NAMED = {"row": pa.int64(), "key": pa.string(), "source": pa.string()}  # columns before the scores
ROWS_AT_ONCE = 1000  # of scores, in memory
CHANGED = "the dataset changed while it was looked at: some of this may be of rows as they were; verify it again"


def verify(
    path: str | os.PathLike[str],
    *,
    image_column: str | None = None,
    condition_column: str | None = None,
    caption_column: str | None = None,
    config: str | None = None,
    follow_links: Sequence[str | os.PathLike[str]] = (),
    limit: int | None = None,
    checks: Sequence[str] = (),
    annotator: str | None = None,
    sample: SampleSize | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    scores: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    device: str = "auto",
    weights: Weights | None = None,
    trust_annotators: Sequence[str] = (),
    progress: Callable[[Progress], None] = lambda _: None,
) -> VerifyResult:
    """Check every pair of a dataset: one of condprep, any other of Hugging Face (folder, Parquet, Hub id), two folders
    matched by stem, a listing such as fill50k's prompt.json, or a URL of Arrow or Parquet files.

    config: of a dataset with several. follow_links: folders outside of the dataset that its links and rows may lead to.
    limit: only the first rows, so many; their scores lie beside those of all rows (`verify.first.parquet`).
    checks: some of "structure", "condition", ...; else all. annotator: what made the maps, where the dataset does not say
    it; sample: how many rows, or "all", are compared with maps that it makes now (default: all where it needs no network,
    else 512). settings: thresholds, and parameters of the annotator: {"structure": {"max_aspect_error": 2}, "canny":
    {"low": 50}}. scores: where verify.parquet is written; else into `.condprep/` of a dataset of condprep, or beside any
    other. device, weights: of the annotator; CLIP's vocabulary comes from the weights, too.
    trust_annotators: those that the dataset may name beside condprep's own.
    What was stopped goes on when the same call is made again.
    Raises UsageError (or its children) where there is no dataset of pairs, and for a check, a threshold or an annotator
    that does not exist.
    """
    began, place = time.monotonic(), place_of_scores(path, scores, limit)
    limits, wanted_annotator = _sorted_out(settings or {}, annotator)
    known = configure(all_groups(), limits)
    chosen = choose_groups(known, checks)
    wanted = {"image": image_column, "condition": condition_column, "caption": caption_column}
    pairs, notes = _opened(path, wanted, config, follow_links, limit)
    weights, comparer = weights or Weights(), None
    tokens = _token_counter(weights, notes if pairs.captioned else [])
    if aligned := ALIGNMENT.name in [group.name for group in chosen]:
        comparer = find_comparer(pairs, wanted_annotator, sample, device, weights, notes, trust_annotators)
    run = _Run(chosen, Context(pairs.said, pairs.captioned, pairs.keyed, tokens), comparer, progress)
    stamp = pairs.stamp
    question = {"columns": wanted, "limits": limits, "notes": notes, "stamp": stamp} | run.question(pairs)
    with Unfinished(place, question) as unfinished:
        commit(place, lambda partial: run.write(pairs, partial, workers or usable_cores(), unfinished))
        run.check_rows(path, place)
        notes += _compared(place, comparer) if aligned else []
        notes += [CHANGED] * (pairs.stamp != stamp)
        not_run = tuple(group.name for group in known if group not in chosen)
        seconds = time.monotonic() - began
        result = VerifyResult(os.fspath(path), run.rows, run.all_findings(place), notes, place, seconds, not_run)
        keep(result, stamp, wanted)
        unfinished.forget()
    return result


def _opened(
    path: str | os.PathLike[str],
    wanted: Mapping[str, str | None],
    config: str | None,
    follow_links: Sequence[str | os.PathLike[str]],
    limit: int | None,
) -> tuple[Pairs, list[str]]:
    """The pairs that are looked at, and what is to be said of them. wanted: names of columns."""
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: it is how many rows are looked at, from 1 on")
    pairs = reopen(os.fspath(path), dict(wanted), config, [Path(folder) for folder in follow_links])
    notes = [*pairs.notes, *_unseen(pairs)]
    if limit:
        return FirstPairs(pairs, limit), [*notes, f"only the first {limit:,} rows were looked at"]
    return pairs, notes


def _unseen(pairs: Pairs) -> Iterator[str]:
    """That a dataset has further maps."""
    if isinstance(pairs, TablePairs) and pairs.unseen:
        yield (
            f"only the maps in {pairs.columns.condition!r} were looked at, not the pictures in "
            f"{', '.join(map(repr, pairs.unseen))}; --condition-column names another column"
        )


def place_of_scores(
    path: str | os.PathLike[str], scores: str | os.PathLike[str] | None = None, limit: int | None = None
) -> Path:
    """Where the scores of a verification go. Raises UsageError."""
    if scores:
        check_utf8(scores)
        check_suffix(Path(scores), [".parquet"], "a table of scores")
        _check_replaceable(Path(scores))
        _check_beside(Path(scores), Path(path))
        return Path(scores)
    place = scores_path(here(path))
    return place.with_suffix(".first.parquet") if limit else place


def _check_replaceable(scores: Path) -> None:
    """Raises UsageError for a file that is there and holds anything else than scores, such as the rows of a dataset."""
    try:
        names = schema(scores).names[: len(NAMED)] if scores.is_file() else list(NAMED)
    except CondprepError:  # scores that were cut, as it may be: nothing of a dataset is lost
        return
    if names != list(NAMED):
        raise UsageError(f"{scores} is there, and is no table of scores; choose another name")


def _check_beside(scores: Path, dataset: Path) -> None:
    """Raises UsageError for a place in the dataset where the table would be taken for rows of it: any that is not hidden."""
    if lies_in(scores, dataset):
        inside = os.path.relpath(os.path.realpath(scores), os.path.realpath(dataset))
        if not any(part.startswith(".") for part in Path(inside).parts):
            raise UsageError(
                f"{scores} would be taken for rows of {dataset}, in which it lies; choose a place beside it"
            )


class _Run:
    """One call of `verify`: counts and findings grow with the rows, pictures come and go."""

    def __init__(
        self,
        groups: Sequence[Group],
        context: Context,
        comparer: Comparer | None,
        progress: Callable[[Progress], None],
    ) -> None:
        """comparer: makes the maps again with which the group "alignment" compares; None: no annotator is known."""
        if comparer:
            groups = [reannotating(one, comparer) if one.name == ALIGNMENT.name else one for one in groups]
        self.groups, self.context, self.comparer, self.progress = groups, context, comparer, progress
        self.surveys = [(group.name, survey) for group in groups for survey in group.fresh_surveys()]
        self.findings: list[Finding] = []
        self.rows = 0

    def question(self, pairs: Pairs) -> dict[str, Any]:
        """What is asked of whom: a run that was stopped goes on where both are the same."""
        made = {"comparer": self.comparer and self.comparer.question, "checks": [one.name for one in self.groups]}
        return {"condprep": __version__, "read": dict(pairs.identity)} | made

    def check_rows(self, path: str | os.PathLike[str], scores: Path) -> None:
        """Raises UsageError where there was nothing to look at."""
        if not self.rows and not self.findings:
            remove(scores)
            raise UsageError(f"{path} has 0 rows: there is nothing to verify")

    def write(self, pairs: Pairs, path: Path, workers: int, unfinished: Unfinished) -> None:
        """Measure and judge every pair, the scores into a Parquet file."""
        fields = NAMED | {k: t for group in self.groups for k, t in group.scores.items()}
        schema = pa.schema(list(fields.items()))
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in lots(self._measured(pairs, workers, unfinished), ROWS_AT_ONCE):
                writer.write_table(pa.Table.from_pylist(table, schema=schema))

    def _measured(self, pairs: Pairs, workers: int, unfinished: Unfinished) -> Iterator[dict[str, Any]]:
        with ThreadPoolExecutor(workers) as pool, one_thread_each(), quiet_pillow():
            ahead, total = 4 * workers, pairs.known_rows()
            unfinished.total = total
            if self.comparer:
                self.comparer.look(pairs, pool, ahead, self._tell, unfinished)
            for pair, scores in chain(_before(unfinished), self._further(pairs, pool, ahead, unfinished)):
                self._judge(pair, scores)
                if pair.row is not None:
                    yield {"row": pair.row, "key": pair.key, "source": pair.source} | scores
                self.progress(Progress("verify", self.rows, total))

    def _tell(self, done: int, total: int | None) -> None:
        self.progress(Progress("annotate", done, total))

    def _further(
        self, pairs: Pairs, pool: Executor, ahead: int, unfinished: Unfinished
    ) -> Iterator[tuple[Pair, dict[str, Any]]]:
        """The pairs that were not measured yet; those before them are read, and no more."""
        rest = islice(pairs, unfinished.known("rows"), None)
        for pair, scores in ordered_map(pool, self._measure, rest, ahead, memory_of, under_way(ahead)):
            if self.comparer and self.comparer.problem:
                unfinished.give_up()
            unfinished.add("rows", [pair.row, pair.key, pair.source, scores])
            yield pair, scores

    def _measure(self, pair: Pair) -> tuple[Pair, dict[str, Any]]:
        """In a thread of the pool. The pair comes back without its bytes, of which no more are needed."""
        opened = open_pair(pair)
        scores: dict[str, Any] = {}
        for group in self.groups:
            scores |= group.measure(opened, self.context)
        return Pair(pair.row, pair.key, source=pair.source), scores

    def _judge(self, pair: Pair, scores: Scores) -> None:
        if pair.row is not None:
            self.rows += 1
            for _, survey in self.surveys:
                survey.add(scores)
        for group in self.groups:
            for check in group.checks:
                if reason := check(scores):
                    named = (group.name, check.name, check.severity, reason)
                    self.findings.append(Finding(pair.row, pair.key, *named, source=pair.source))

    def all_findings(self, scores: Path) -> list[Finding]:
        """Those of single rows and of the surveys, by row. Names are looked up in the scores: surveys keep only numbers."""
        late = [(name, survey, *told) for name, survey in self.surveys for told in survey.finish()]
        rows = sorted({row for _, _, row, *_ in late})
        named = dict(zip(rows, take(scores, ["key", "source"], rows)))
        found = [
            replace(
                Finding(row, named[row]["key"], name, survey.name, survey.severity, reason, *twin),
                source=named[row]["source"],
            )
            for name, survey, row, reason, *twin in late
        ]
        return sorted(self.findings + found, key=lambda one: (one.row is None, one.row or 0))


def _before(unfinished: Unfinished) -> Iterator[tuple[Pair, dict[str, Any]]]:
    """What a run that was stopped has measured."""
    for row, key, source, scores in unfinished.read("rows"):
        yield Pair(row, key, source=source), scores


def _sorted_out(
    settings: Mapping[str, Mapping[str, Any]], annotator: str | None
) -> tuple[dict[str, Mapping[str, Any]], tuple[str, Mapping[str, Any]] | None]:
    """Thresholds, and the annotator's name with its parameters."""
    name = canonical(annotator).partition(":")[0] if annotator else None
    limits = {check: values for check, values in settings.items() if check != name}
    return limits, (annotator, settings.get(name, {})) if annotator and name else None


def _compared(scores: Path, comparer: Comparer | None) -> list[str]:
    """What the rows were compared with, in words."""
    columns = pq.read_table(scores, columns=["alignment", "compared_with"]).to_pydict().values()
    notes = [f"alignment: the annotator gave up: {comparer.problem}"] if comparer and comparer.problem else []
    return [*notes, summary(list(zip(*columns)), comparer.name if comparer else None)]


def _token_counter(weights: Weights, notes: list[str]) -> TokenCounter:
    """With CLIP's vocabulary, or without it, and then a note says so."""
    try:
        return TokenCounter(weights.get(VOCABULARY).path)
    except WeightsError as error:
        notes.append(f"captions of which it is not certain are not counted as too long for CLIP: {error}")
        return TokenCounter(None)
