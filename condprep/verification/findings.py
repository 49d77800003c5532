"""What `verify` found, and keeping it: verify.findings.json lies beside verify.parquet, for `condprep report`."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from condprep import __version__
from condprep.runtime.files import commit, read_json
from condprep.verification.check import SEVERITIES, Severity

FIELDS = ("row", "key", "check", "rule", "severity", "reason", "twin", "source")  # of a finding, as it is stored


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a row."""

    row: int | None  # None: not a row, but a damaged file or a picture without a map
    key: str
    check: str  # the group: "structure", "condition", ...
    rule: str  # which check of the group: "size", "polarity", ...
    severity: Severity
    reason: str
    twin: int | None = None  # the earlier row that this one repeats
    source: str | None = None  # the file that the row's picture comes from, where the dataset says it

    def public(self) -> dict[str, Any]:
        """As `verify --json` prints it."""
        return {name: getattr(self, name) for name in ("row", "key", "source", "check", "rule", "severity", "reason")}


@dataclass(frozen=True)
class VerifyResult:
    """What `verify` found."""

    path: str
    rows: int
    findings: Sequence[Finding]  # by row; those of no row last
    notes: Sequence[str]  # what was guessed, and what could not be checked
    scores: Path  # verify.parquet: row, key and every score
    seconds: float
    not_run: Sequence[str] = ()  # groups of checks that were not asked for

    @property
    def gap(self) -> str:
        """Which checks were not run, in words; "" where all were."""
        return (
            f"not run: {', '.join(self.not_run)}; `condprep verify {shlex.quote(self.path)}` runs every check"
            * bool(self.not_run)
        )

    def failures(self, fail_on: Severity = "error") -> int:
        """How many findings are at or above a severity."""
        serious = SEVERITIES[SEVERITIES.index(fail_on) :]
        return sum(finding.severity in serious for finding in self.findings)

    def counts(self) -> Counter[tuple[str, str, Severity]]:
        """(check, rule, severity) -> findings."""
        return Counter((finding.check, finding.rule, finding.severity) for finding in self.findings)


def scores_path(dataset: Path) -> Path:
    """Where the scores of a dataset go where nothing else is said.

    Beside those of others they are hidden: what reads the folder around it would take the table for rows.
    """
    private = dataset / ".condprep"
    if private.is_dir() and not private.is_symlink():  # what a link leads to is not ours
        return private / "verify.parquet"
    name = dataset.name if dataset.exists() else str(dataset).replace("/", "_")
    return (dataset.absolute().parent if dataset.exists() else Path()) / f".{name}.verify.parquet"


def keep(result: VerifyResult, stamp: str, columns: Mapping[str, str | None]) -> None:
    """Write the findings beside the scores. stamp: of the dataset as it was verified; columns: those that were named."""
    kept = {
        "condprep": __version__,
        "stamp": stamp,
        "columns": dict(columns),
        "rows": result.rows,
        "seconds": result.seconds,
        "notes": list(result.notes),
        "not_run": list(result.not_run),
        "scores": _sha256(result.scores),
    }
    commit(_beside(result.scores), lambda partial: _write(partial, kept, result.findings))


def _write(path: Path, kept: Mapping[str, Any], findings: Sequence[Finding]) -> None:
    """One finding a line: there may be a million of them, which are too many for one string."""
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(kept, ensure_ascii=False)[:-1] + ', "findings": [')
        seal = _seal_of(kept)
        for number, one in enumerate(findings):
            values = [getattr(one, name) for name in FIELDS]
            file.write(f"{',' if number else ''}\n{json.dumps(values, ensure_ascii=False)}")
            seal.update(json.dumps(values).encode())
        file.write(f'], "seal": "{seal.hexdigest()}"}}\n')


def named_columns(scores: Path) -> Mapping[str, str | None]:
    """The columns that were named when the dataset was last verified: {"image": ..., "condition": ..., "caption": ...}."""
    columns = _kept(scores).get("columns")
    if not isinstance(columns, dict) or not all(isinstance(name, str | None) for name in columns.values()):
        columns = {}
    return {role: columns.get(role) for role in ("image", "condition", "caption")}


def kept_result(path: str, scores: Path, stamp: str, columns: Mapping[str, str | None]) -> VerifyResult | None:
    """What was found when the dataset was as it is now; None where it was not verified since, or in other columns."""
    kept = _kept(scores)
    now = {"condprep": __version__, "stamp": stamp, "columns": dict(columns)}
    if not scores.exists() or any(kept.get(name) != value for name, value in now.items()):
        return None
    try:
        sealed, listed = kept.pop("seal"), kept.pop("findings")
        if sealed != _seal(kept, listed) or kept["scores"] != _sha256(scores):
            return None
        findings = [_finding(values, kept["rows"]) for values in listed]
        notes, not_run = (list(map(str, kept[name])) for name in ("notes", "not_run"))
        return VerifyResult(path, kept["rows"], findings, notes, scores, float(kept["seconds"]), tuple(not_run))
    except (OSError, KeyError, TypeError, ValueError):  # it lies in the dataset, and is no more trusted than that
        return None


def _finding(values: Any, rows: int) -> Finding:
    """Raises TypeError or ValueError where it is none."""
    found = Finding(*values)
    if not all(
        number is None or (isinstance(number, int) and 0 <= number < rows) for number in (found.row, found.twin)
    ):
        raise ValueError("a finding of no row")
    if not all(
        isinstance(text, str) for text in (found.key, found.check, found.rule, found.reason, found.source or "")
    ):
        raise TypeError("a finding without words")
    if found.severity not in SEVERITIES:
        raise ValueError("a finding of no severity")
    return found


def _seal(kept: Mapping[str, Any], listed: Sequence[Sequence[Any]]) -> str:
    """A checksum over all of it: what was damaged, or had findings taken out, is not believed."""
    seal = _seal_of(kept)
    for values in listed:
        seal.update(json.dumps(values).encode())
    return str(seal.hexdigest())


def _seal_of(kept: Mapping[str, Any]) -> Any:
    """That of all but the findings, to be updated with each. The same findings have the same one, however long they took."""
    return sha256(json.dumps({**kept, "seconds": 0}, sort_keys=True).encode())


def _sha256(scores: Path) -> str:
    with scores.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _kept(scores: Path) -> dict[str, Any]:
    """The file as it is; nothing where it is missing or damaged."""
    try:
        kept = read_json(_beside(scores))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _beside(scores: Path) -> Path:
    return scores.with_suffix(".findings.json")
