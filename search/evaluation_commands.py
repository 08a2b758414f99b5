"""The commands of `python -m search` that measure answers, and what answers are measured with."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.config import CropName, EncoderOptions, FeedOptions
from indexer.cli import Result
from indexer.errors import InputError
from search.answers.options import CAP, SearchOptions
from search.evaluation.options import AuditConfig, CalibrateConfig, EvaluateConfig

if TYPE_CHECKING:
    from search.calibration.calibrate import CalibratedVersion
    from search.calibration.cell_calibration import Fitted
    from search.calibration.photo_calibration import PhotoCalibration
    from search.calibration.photo_numbers import RerankerGain
    from search.evaluation.audit import AuditSummary
    from search.runs.run_report import RunReport


def evaluate(
    *,
    truth: Path,
    predictions: Path | None = None,
    report: Path | None = None,
    registry: Path | None = None,
    checkpoint: str | None = None,
    out: Path | None = None,
    version: str | None = None,
    crops: CropName | None = None,
    check_recall: int | None = None,
    owner_column: str | None = None,
    tables: bool = False,
    config: EvaluateConfig,
    search: SearchOptions,
    encoder: EncoderOptions,
    feed: FeedOptions,
) -> Result:
    """Compare answers with where photos were taken; the answers of a run, or made here with --registry, --checkpoint.

    Args:
        truth: table of photos with lat and lng, or a folder of photos whose metadata say where they were taken; each
            counts, and no answer is a miss. With --benchmark also the set's own files, or the folder they are in. With
            --tables a folder with such a folder for each set.
        predictions: predictions folder, or anybody's .parquet or .csv with photo, lat, lng. With --tables a folder with
            such answers to each set, called after it.
        report: folder to write: a page with pictures, and the error of every photo; with --tables a page, tables.md and
            tables.csv.
        registry: registry folder with a published bundle, to answer the photos of the truth.
        checkpoint: the checkpoint the bundle was built from, or hf:<hub id or folder>.
        out: predictions folder to write; by default answers made here are not kept.
        version: a bundle's digest or its beginning; the current one by default.
        crops: of each photo, averaged: the middle; that and four corners; those and their mirror images.
        check_recall: number of photos whose answers are compared with those of exact search, with --registry.
        owner_column: column of the truth that says whose each photo is: gallery photos of the same owner are not looked
            at, with --registry.
        tables: Tables I to V of the paper, of its five benchmarks as far as they are there, answered with ten crops.
        config: what is measured.
        search: how places are searched for, with --registry.
        encoder: which maps it sees, and where it runs.
        feed: how photos reach it.
    """
    from search.evaluating import evaluate as evaluate_answers
    from search.evaluating import evaluate_tables
    from search.runs.run_spec import RunConfig, RunSpec

    if (predictions is None) == (registry is None) or (registry is None) != (checkpoint is None):
        raise InputError("Give either --predictions O, or --registry R together with --checkpoint C.")
    if predictions is not None and (out is not None or crops is not None or encoder.says_how_maps_come):
        raise InputError("--out, --crops, --segmentation-cache and --segmenter go with --registry: O has its answers.")
    if predictions is not None and owner_column is not None:
        raise InputError("--owner-column goes with --registry, or with the run that made O: it decides answers.")
    if predictions is not None and (search != SearchOptions() or check_recall is not None):
        raise InputError(
            "--mode, --region, --point and all else that says how to search go with --registry: O has its answers."
        )
    answers: Path | RunSpec | None = predictions
    if registry is not None:
        answers = RunSpec(
            registry=registry,
            photos=str(truth),
            checkpoint=checkpoint,
            split=config.split,
            version=version,
            crops=crops or ("ten" if tables or config.benchmark is not None else "one"),
            owner_column=owner_column,
            search=search,
            encoder=encoder,
            feed=feed,
        )
    assert answers is not None
    run_config = RunConfig(check_recall=check_recall)
    if tables:
        if config != EvaluateConfig(resampling=config.resampling):
            raise InputError(
                "--tables says what is measured, and on which photos. Leave out all but --resamples and --seed, or "
                "give one --benchmark."
            )
        of_all = evaluate_tables(
            answers, truth, resampling=config.resampling, report=report, out=out, run_config=run_config
        )
        runs = [each.run for each in of_all.reports.values()]
        return Result(of_all.to_dict(), _reported(of_all.text(), report), failed=any(map(_nothing_answered, runs)))
    made = evaluate_answers(answers, truth, config=config, report=report, out=out, run_config=run_config)
    return Result(made.to_dict(), _reported(made.text(), report), failed=_nothing_answered(made.run))


def _reported(text: str, report: Path | None) -> str:
    return text if report is None else f"{text}\n\nReport: {report / 'report.html'}"


def _nothing_answered(run: "RunReport | None") -> bool:
    return run is not None and run.rows > 0 and not run.ok


def audit(*, photos: str, out: Path, config: AuditConfig) -> Result:
    """List photos of a test set that are no evidence: the answer is in their file, or they are among the references.

    Args:
        photos: the test set: table (.parquet, .csv), folder of images, or tar shards; a path or a URI.
        out: folder to write: leaks.parquet, duplicates.parquet, unreadable.parquet.
        config: what they are compared with.
    """
    from search.evaluation.audit import audit as audit_photos

    summary = audit_photos(photos, out, config=config)
    data = {"audit": str(out), "features": config.features is not None, **asdict(summary)}
    return Result(data, _audit_text(summary, out, config), failed=summary.photos == sum(summary.unreadable.values()))


def calibrate(
    *, registry: Path, features: Path, truth: Path, no_publish: bool = False, config: CalibrateConfig
) -> Result:
    """Make probabilities and radii true, with photos that nothing was fitted to; writes a new version of the bundle.

    Each way of making a query of photos is calibrated apart: one crop, five, ten, albums. The others' calibrations are
    kept.

    Args:
        registry: registry folder with a published bundle.
        features: vectors of held-out photos.
        truth: table with photo, lat, lng of these, or their folder, where their metadata say where they were taken.
        no_publish: write the version without making it current.
        config: what is calibrated.
    """
    from indexer.bundles.registry import Registry
    from search.calibration.calibrate import calibrate as calibrate_bundle

    made = calibrate_bundle(registry, features, truth, config=config)
    if not no_publish:
        Registry(registry).publish(made.version)
    where = f"{'not published' if no_publish else 'published'} in {registry}"
    data = {"version": made.version, "published": not no_publish, "protocol": made.protocol}
    data |= _fitted_data(made.fitted)
    data["photos"] = None if made.photos is None else _photos_data(made.photos)
    return Result(data, _calibration_text(made, where))


def _photos_data(photos: "PhotoCalibration") -> dict[str, Any]:
    """What programs are told of the calibration of photos."""
    data = {"left_out": photos.left_out, "reranker": None if photos.gain is None else asdict(photos.gain)}
    return {"fitted": _fitted_data(photos.fitted), **data}


def _fitted_data(fitted: "Fitted") -> dict[str, Any]:
    """What programs are told of what was fitted: all but a reranker itself, and of nonconformities their number."""
    data = asdict(replace(fitted, calibration=replace(fitted.calibration, reranker=None)))
    del data["calibration"]["reranker"]
    data["calibration"]["nonconformities"] = len(fitted.calibration.nonconformities)
    return data


def _calibration_text(made: "CalibratedVersion", where: str) -> str:
    from indexer.vectors.calibration import PROTOCOL_TEXTS

    album = made.protocol == "album"
    of = "albums" if album else f"photos, {PROTOCOL_TEXTS[made.protocol]} each"
    lines = [made.version, f"calibrated with {made.fitted.calibration.queries:,} {of}; {where}"]
    lines += ["by cells alone:", *_fitted_lines(made.fitted, album=album)]
    if made.photos is not None:
        fit = made.photos.fitted.calibration.fit
        assert fit is not None, "photos count by it"
        lines += [
            "by cells and photos of the gallery:",
            f"  photos of the best {fit.lists:,} cells, {fit.near} of them, count {1 - fit.cells:.0%}; bells of "
            f"{fit.width_km:,.3g} km, of {fit.point_width_km:,.3g} km for pointing",
            *_reranker_lines(made.photos.gain),
            *_fitted_lines(made.photos.fitted, album=album),
        ]
        if made.photos.left_out:
            lines.append(f"  {made.photos.left_out:,} held-out photos are in the gallery themselves and were left out")
    if made.fitted.calibration.approximate:
        lines.append("few photos: radii are approximate, as each fifth took turns in checking what the others promise")
    return "\n".join(lines)


def _reranker_lines(gain: "RerankerGain | None") -> list[str]:
    if gain is None:
        return []
    found = f"gains {gain.loss:+.3f} (95 %: {gain.of_loss.low:+.3f} to {gain.of_loss.high:+.3f}) of log loss"
    if gain.of_error is not None:
        found += f" and {gain.error:+.3f} ({gain.of_error.low:+.3f} to {gain.of_error.high:+.3f}) of log(1 + km)"
    kept = "a reranker changes their weights: it" if gain.kept else "no reranker: one that was tried"
    return [f"  {kept} {found}, of photos that it was not fitted to"]


def _fitted_lines(fitted: "Fitted", *, album: bool) -> list[str]:
    from search.evaluation.evaluation_report import error_text

    numbers, before, after = fitted.calibration, fitted.before, fitted.after
    growth = f", times the number of photos to the power {numbers.growth:g}" if album else ""
    return [
        f"  temperature {numbers.temperature:.3f}{growth}; {numbers.inside:.1%} were taken in a finest cell",
        f"  the true place lies in the answered cell for {after.right:.1%}; calibration error {error_text(before)} "
        f"before, {error_text(after)} after",
        "  half and nine in ten of the true places lie in discs with so much of the probability, around",
        *(
            f"    {'the precision cap' if point == CAP else f'--point {point}'}: {half:.1%} and {most:.1%}"
            for point, (half, most) in numbers.masses.items()
        ),
    ]


def _audit_text(summary: "AuditSummary", out: Path, config: AuditConfig) -> str:
    lines = [f"{summary.photos:,} photos; {summary.leaking:,} with their place in the file or its name"]
    for what, counts in (("found in", summary.leaks), ("not readable", summary.unreadable)):
        if counts:
            lines.append(f"  {what}: {', '.join(f'{count:,} {name}' for name, count in counts.items())}")
    duplicates = {by: f"{count:,} are near-duplicates of" for by, count in summary.duplicates.items()}
    if summary.references is not None:
        lines.append(f"{duplicates['hash']} one of {summary.references:,} references, by hash")
        if summary.too_plain or summary.unreadable_references:
            lines.append(
                f"  not compared: {summary.too_plain:,} too plain to have a hash, "
                f"{summary.unreadable_references:,} references not readable"
            )
    if config.features is not None:
        lines.append(f"{duplicates['embedding']} references, by embedding")
    if summary.references is None and config.features is None:
        lines.append("no references were given, so near-duplicates were not looked for")
        advice = f"leave photos out with: python -m search evaluate ... --exclude {out / 'leaks.parquet'}"
    else:
        advice = f"figures without near-duplicates: python -m search evaluate ... --audit {out}"
    lines.append(f"{out}: leaks.parquet, duplicates.parquet, unreadable.parquet; {advice}")
    return "\n".join(lines)
