"""The commands of `python -m search` that measure answers, and what answers are measured with."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from encoder.config import CropName, DeviceName
from encoder.options import EncoderOptions, FeedOptions, ReadOptions
from indexer import paper
from indexer.cli import Result
from indexer.errors import InputError
from search.answers.options import SearchOptions
from search.commands import recall_text
from search.evaluation.published import benchmark_named
from search.runs.run_spec import RunConfig, RunSpec


def evaluate(
    *,
    truth: Path,
    predictions: Path | None = None,
    against: Path | None = None,
    exclude: tuple[str, ...] = (),
    report: Path | None = None,
    registry: Path | None = None,
    checkpoint: str | None = None,
    out: Path | None = None,
    benchmark: str | None = None,
    split: str | None = None,
    thresholds_km: tuple[float, ...] = paper.THRESHOLDS_KM,
    resamples: int = 1000,
    seed: int = 0,
    version: str | None = None,
    crops: CropName | None = None,
    check_recall: int | None = None,
    search: SearchOptions,
    encoder: EncoderOptions,
    feed: FeedOptions,
) -> Result:
    """Compare answers with where photos were taken; the answers of a run, or made here with --registry, --checkpoint.

    Args:
        truth: table of photos with lat and lng; every row counts, and no answer is a miss. With --benchmark also the
            set's own files, or the folder they are in.
        predictions: predictions folder, or anybody's .parquet or .csv with photo, lat, lng.
        against: predictions of another system, to compare on the same photos.
        exclude: tables with a column photo, or folders of `audit`; figures are also given without these photos.
        report: folder to write: a page with pictures, and the error of every photo.
        registry: registry folder with a published bundle, to answer the photos of the truth.
        checkpoint: the checkpoint the bundle was built from, or hf:<hub id or folder>.
        out: predictions folder to write; by default answers made here are not kept.
        benchmark: which set the truth is, of im2gps, im2gps3k, yfcc4k, yfcc26k, gws15k and osv5m: its files are
            understood, it is answered with ten crops, and the paper's figures stand beside.
        split: use only rows of the truth whose column `split` is this.
        thresholds_km: distances at which to count answers as right.
        resamples: draws of photos for the 95 % intervals; 0: no intervals.
        seed: of those draws.
        version: a bundle's digest or its beginning; the current one by default.
        crops: of each photo, averaged: the middle; that and four corners; those and their mirror images.
        check_recall: number of photos whose answers are compared with those of exact search, with --registry.
        search: how places are searched for, with --registry.
        encoder: which maps it sees, and where it runs.
        feed: how photos reach it.
    """
    import tempfile

    from indexer.disk.artifact import check_target
    from indexer.vectors.calibration import PROTOCOL_TEXTS
    from search.evaluation.bootstrap import Resampling
    from search.evaluation.evaluate import compare, evaluate_photos, leave_out
    from search.evaluation.evaluation_report import Against, evaluation_data, evaluation_text
    from search.evaluation.ground_truth import beside_truth, read_truth, write_photos
    from search.runs.job import run

    if (predictions is None) == (registry is None) or (registry is None) != (checkpoint is None):
        raise InputError("Give either --predictions O, or --registry R together with --checkpoint C.")
    if predictions is not None and (out is not None or crops is not None or encoder.says_how_maps_come):
        raise InputError("--out, --crops, --segmentation-cache and --segmenter go with --registry: O has its answers.")
    if predictions is not None and (search != SearchOptions() or check_recall is not None):
        raise InputError(
            "--mode, --region, --point and all else that says how to search go with --registry: O has its answers."
        )
    resampling = Resampling(resamples, seed)
    if against is not None and not resamples:
        raise InputError("--against compares by drawing photos: leave --resamples 0 out.")
    if report is not None:
        check_target(report)
    known = None if benchmark is None else benchmark_named(benchmark)
    photos = read_truth(truth, benchmark=known, split=split)
    ran, source = None, str(truth)
    protocol = crops or ("one" if known is None else "ten")
    with tempfile.TemporaryDirectory(prefix="evaluate-") as scratch:
        if registry is not None:
            predictions = out or Path(scratch) / "predictions"
            if known is not None:  # `run` knows nothing of their layouts
                photos = beside_truth(photos, truth)
                source, split = str(write_photos(photos, Path(scratch) / "photos.parquet")), None
            spec = RunSpec(
                registry=registry,
                photos=source,
                checkpoint=checkpoint,
                split=split,
                version=version,
                crops=protocol,
                search=search,
                encoder=encoder,
                feed=feed,
            )
            ran = run(spec, predictions, config=RunConfig(check_recall=check_recall))
        assert predictions is not None
        result = evaluate_photos(predictions, photos, truth_source=str(truth), thresholds_km=thresholds_km)
    other = None
    if against is not None:
        theirs = evaluate_photos(against, photos, truth_source=str(truth), thresholds_km=thresholds_km)
        other = Against(str(against), theirs, compare(result, theirs, resampling))
    rest = leave_out(result, [Path(name) for name in exclude]) if exclude else None
    data = evaluation_data(result, resampling=resampling, benchmark=known, against=other, left_out=rest)
    if ran is not None:
        data |= {"crops": protocol, "search": ran.search, "recall": ran.to_dict()["recall"]}
    made = None if registry is None else PROTOCOL_TEXTS[protocol]
    what = ", ".join(part for part in (known, made) if part is not None)
    text = evaluation_text(data, what=what)
    if ran is not None and ran.recall is not None:
        text += f"\n\n{recall_text(ran.recall)}"
    if report is not None:
        from search.pages.evaluation_page import write_evaluation

        title = f"{registry if registry is not None else predictions} on {known or truth}"
        write_evaluation(result, data, report, title=title, against=other)
        text += f"\n\nReport: {report / 'report.html'}"
    return Result(data, text, failed=ran is not None and bool(ran.rows and not ran.ok))


def audit(
    *,
    photos: str,
    out: Path,
    references: str | None = None,
    features: Path | None = None,
    reference_features: Path | None = None,
    split: str | None = None,
    reference_split: str | None = None,
    max_bits: int = 6,
    min_cosine: float = 0.95,
    workers: int = 2,
    read: ReadOptions,
) -> Result:
    """List photos of a test set that are no evidence: the answer is in their file, or they are among the references.

    Args:
        photos: the test set: table (.parquet, .csv), folder of images, or tar shards; a path or a URI.
        out: folder to write: leaks.parquet, duplicates.parquet, unreadable.parquet.
        references: photos that training saw or answers come from, to compare by perceptual hash.
        features: vectors of the test set, to compare by embedding as well.
        reference_features: vectors of the references, by the same encoder.
        split: use only rows of --photos whose column `split` is this.
        reference_split: the same for --references.
        max_bits: of 64 that two perceptual hashes may differ in.
        min_cosine: of two embeddings that count as near-duplicates.
        workers: threads that read and decode photos.
        read: which photos are read.
    """
    from indexer.disk.artifact import check_target
    from indexer.jobs.progress import track
    from indexer.photos.sources import open_photos
    from indexer.vectors.features import open_features
    from search.evaluation.audit import AuditConfig
    from search.evaluation.audit import audit as audit_photos

    if (features is None) != (reference_features is None):
        raise InputError("Give --features and --reference-features together: embeddings are compared with each other.")
    if references is None and reference_split is not None:
        raise InputError("--reference-split goes with --references.")
    check_target(out)
    config = AuditConfig(max_bits, min_cosine, workers, read.max_pixels, read.schemes)
    source = open_photos(photos, split=split, schemes=read.schemes)
    known = None if references is None else open_photos(references, split=reference_split, schemes=read.schemes)
    counts = [each.n_photos for each in (source, known) if each is not None]
    vectors = None
    if features is not None and reference_features is not None:
        vectors = open_features(features), open_features(reference_features)
    with track("reading photos", None if None in counts else sum(count or 0 for count in counts)) as advance:
        summary = audit_photos(source, out, references=known, features=vectors, config=config, advance=advance)
    data = {"audit": str(out), "features": vectors is not None, **asdict(summary)}
    return Result(data, _audit_text(data), failed=summary.photos == sum(summary.unreadable.values()))


def calibrate(
    *,
    registry: Path,
    features: Path,
    truth: Path,
    split: str | None = None,
    album: str | None = None,
    crops: CropName | None = None,
    fit_weights: bool = False,
    version: str | None = None,
    device: DeviceName = "auto",
    resamples: int = 1000,
    seed: int = 0,
    no_publish: bool = False,
) -> Result:
    """Make probabilities and radii true, with photos that nothing was fitted to; writes a new version of the bundle.

    Each way of making a query of photos is calibrated apart: one crop, five, ten, albums. The others' calibrations are
    kept.

    Args:
        registry: registry folder with a published bundle.
        features: vectors of held-out photos.
        truth: table with photo, lat, lng of these.
        split: use only rows of the truth whose column `split` is this.
        album: column of the truth that says which photos belong together; calibrates answers to albums.
        crops: that the vectors are means of, where the features folder does not say.
        fit_weights: fit also how much each level counts, and the number of photos in a cell; drops the calibrations of
            other protocols, as it changes all scores.
        version: a bundle's digest or its beginning; the current one by default.
        device: where the search runs.
        resamples: draws of photos for the 95 % intervals of the calibration error; 0: none.
        seed: of those draws.
        no_publish: write the version without making it current.
    """
    from search.evaluation.bootstrap import Resampling
    from search.evaluation.calibrate import calibrate_version

    made = calibrate_version(
        registry,
        features,
        truth,
        split=split,
        album=album,
        crops=crops,
        fit_weights=fit_weights,
        version=version,
        device=device,
        resampling=Resampling(resamples, seed),
        publish=not no_publish,
    )
    data = {"version": made.version, "published": not no_publish, "protocol": made.protocol, **asdict(made.fitted)}
    return Result(data, _calibration_text(data, registry))


def _calibration_text(data: Mapping[str, Any], registry: Path) -> str:
    from indexer.vectors.calibration import PROTOCOL_TEXTS

    fitted, before, after = data["calibration"], data["before"], data["after"]
    of = "albums" if data["protocol"] == "album" else f"photos, {PROTOCOL_TEXTS[data['protocol']]} each"
    growth = f", times the number of photos to the power {fitted['growth']:g}" if data["protocol"] == "album" else ""
    lines = [
        data["version"],
        f"calibrated with {fitted['queries']:,} {of}; {'published' if data['published'] else 'not published'} in "
        f"{registry}",
        f"  temperature {fitted['temperature']:.3f}{growth}; {fitted['inside']:.1%} were taken in a finest cell",
        f"  the true place lies in the answered cell for {after['right']:.1%}; calibration error {_error(before)} "
        f"before, {_error(after)} after",
        "  half and nine in ten of the true places lie in discs with so much of the probability, around",
        *(f"    --point {point}: {half:.1%} and {most:.1%}" for point, (half, most) in fitted["masses"].items()),
    ]
    return "\n".join(lines)


def _error(reliability: Mapping[str, Any]) -> str:
    ends = reliability["interval"]
    span = "" if ends is None else f" ({ends['low']:.3f} to {ends['high']:.3f})"
    return f"{reliability['error']:.3f}{span}"


def _audit_text(data: Mapping[str, Any]) -> str:
    def listed(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{count:,} {name}" for name, count in counts.items())

    lines = [f"{data['photos']:,} photos; {data['leaking']:,} with their place in the file or its name"]
    if data["leaks"]:
        lines.append(f"  found in: {listed(data['leaks'])}")
    if data["unreadable"]:
        lines.append(f"  not readable: {listed(data['unreadable'])}")
    if data["references"] is not None:
        lines.append(
            f"{data['duplicates']['hash']:,} are near-duplicates of one of {data['references']:,} references, by hash"
        )
        if data["too_plain"] or data["unreadable_references"]:
            lines.append(
                f"  not compared: {data['too_plain']:,} too plain to have a hash, "
                f"{data['unreadable_references']:,} references not readable"
            )
    if data["features"]:
        lines.append(f"{data['duplicates']['embedding']:,} are near-duplicates of references, by embedding")
    if data["references"] is None and not data["features"]:
        lines.append("no references were given, so near-duplicates were not looked for")
    lines.append(
        f"{data['audit']}: leaks.parquet, duplicates.parquet, unreadable.parquet; leave them out with: "
        f"python -m search evaluate ... --exclude {data['audit']}"
    )
    return "\n".join(lines)
