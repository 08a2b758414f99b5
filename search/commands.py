"""The commands of `python -m search`. Each one is arguments -> one library call -> one result; imports wait for it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from encoder.config import SHARD_ROWS, CropName
from encoder.options import EncoderOptions, FeedOptions, ReadOptions
from indexer import paper
from indexer.cli import Floats, Result, Strings
from indexer.errors import InputError
from search.modes import SearchOptions
from search.published import benchmark_named

THRESHOLDS_KM = Floats(paper.THRESHOLDS_KM)
EngineName = Literal["local", "ray"]
ExportFormat = Literal["csv", "geojson", "geoparquet"]
NO_MAPS = Strings()
NO_LISTS = Strings()
_CROPS = {"one": "one crop", "five": "five crops", "ten": "ten crops"}


def query(
    *,
    photos: list[str],
    registry: Path,
    checkpoint: str,
    top_k: int = 1,
    version: str | None = None,
    crops: CropName = "one",
    class_maps: Strings = NO_MAPS,
    search: SearchOptions,
    encoder: EncoderOptions,
    read: ReadOptions,
) -> Result:
    """Say where photos were taken.

    Args:
        photos: image files, paths or URIs.
        registry: registry folder with a published bundle.
        checkpoint: the checkpoint the bundle was built from, or hf:<hub id or folder>.
        top_k: how many places to name for each photo.
        version: a bundle's digest or its beginning; the current one by default.
        crops: of each photo, averaged: the middle; that and four corners; those and their mirror images.
        class_maps: of the photos, one for each in their order, for an encoder with semantic fusion.
        search: how their places are searched for.
        encoder: which other maps it sees, and where it runs.
        read: which photos are read.
    """
    from encoder.embed import EmbedConfig, embed_photos
    from indexer.job_folder import OK
    from indexer.photos import listed_photos
    from search.answers import answer_table, explain
    from search.engine import Engine

    engine = Engine.open(registry, version=version, options=search)
    engine.check_k(top_k)
    encode = encoder.open(checkpoint, crops=crops)
    engine.check_encoder(encode.encoder.digest, source=checkpoint)
    # No worker processes: a few photos are decoded before another interpreter has started.
    config = EmbedConfig(workers=0, shard_rows=len(photos), max_pixels=read.max_pixels, limits=read.limits)
    (batch,) = embed_photos(encode, listed_photos(photos, class_maps), config=config)
    if not batch.ok.any():
        reasons = "; ".join(f"{photo}: {reason}" for photo, reason in zip(batch.photo, batch.reason, strict=True))
        raise InputError(f"No photo to answer. {reasons}. Give paths of image files.")
    rows = explain(engine, batch, answer_table(engine, batch, first_row=0, k=top_k))
    data = {"bundle": engine.bundle.version, "encoder": encode.encoder.digest, "answers": rows}
    failed = any(row["status"] != OK for row in rows)
    return Result(data, "\n\n".join(_answer_text(row) for row in rows), failed=failed)


def run(
    *,
    registry: Path,
    out: Path,
    features: Path | None = None,
    photos: str | None = None,
    checkpoint: str | None = None,
    split: str | None = None,
    top_k: int = 1,
    version: str | None = None,
    crops: CropName = "one",
    save_features: Path | None = None,
    part: str = "1/1",
    engine: EngineName = "local",
    shard_rows: int = SHARD_ROWS,
    strict: bool = False,
    check_recall: int | None = None,
    search: SearchOptions,
    encoder: EncoderOptions,
    feed: FeedOptions,
) -> Result:
    """Answer many photos at once, from their vectors or from the photos themselves, into a folder of Parquet rows.

    A job that was cut short, however it was, goes on where it stopped when the same command is given again.

    Args:
        registry: registry folder with a published bundle.
        out: predictions folder to write.
        features: photo vectors: a features folder, a .parquet, or a .npy beside a .csv.
        photos: table (.parquet, .csv), folder of images, or tar shards, with --checkpoint; a path or a URI.
        checkpoint: the checkpoint the bundle was built from, or hf:<hub id or folder>.
        split: use only rows of --photos whose column `split` is this.
        top_k: how many places to keep for each photo.
        version: a bundle's digest or its beginning; the current one by default.
        crops: of each photo, averaged: the middle; that and four corners; those and their mirror images.
        save_features: features folder to keep the vectors of --photos in.
        part: 2/8 does the second of eight parts of the job, each into an --out of its own: for several machines.
        engine: local works on this machine; ray on the cluster that RAY_ADDRESS names, which must see the same paths.
        shard_rows: rows in one Parquet file; what a kill can cost.
        strict: exit with 1 if any photo has no answer; otherwise only if none has.
        check_recall: number of photos whose answers are compared with those of exact search.
        search: how places are searched for.
        encoder: which maps it sees, and where it runs.
        feed: how photos reach it.
    """
    from indexer.job_folder import check_job_target
    from indexer.progress import per_second
    from indexer.shard_cut import Part
    from search import job
    from search.recipe import Recipe
    from search.run_report import REPORT_PAGE

    if (features is None) == (photos is None) or (photos is None) != (checkpoint is None):
        raise InputError("Give either --features F, or --photos P together with --checkpoint C.")
    if features is not None and split is not None:
        raise InputError("--split goes with --photos: features have no splits. Embed that split alone.")
    if features is not None and (crops != "one" or encoder.says_how_maps_come):
        raise InputError(
            "--crops, --segmentation-cache and --segmenter go with --photos: features are vectors already."
        )
    check_job_target(out)
    config = job.RunConfig(top_k, Part.parse(part), save_features, check_recall)
    recipe = Recipe(registry, version, search, encoder, features, photos, checkpoint, split, crops, feed, shard_rows)
    if engine == "ray":
        from search.ray_engine import run_on_ray

        report = run_on_ray(recipe, out, config)
    else:
        opened, source = recipe.open(out)
        opened.check_k(top_k)
        report = job.run(opened, source, out, config)
    failures = ", ".join(f"{count} {code}" for code, count in report["failed"].items()) or "none"
    text = (
        f"{out}: {report['rows']:,} photos, {report['rows_known']:,} of them answered before, in "
        f"{report['seconds']:.1f} s ({per_second(report['rows_per_second'])}); {report['ok']:,} answered, failed: "
        f"{failures}\nReport: {out / REPORT_PAGE}"
    )
    data = {"predictions": str(out), "bundle": report["inputs"]["bundle"], **report}
    if report["recall"] is not None:
        text += f"\n{_recall_text(report['recall'])}"
    return Result(data, text, failed=bool(report["rows"] and not report["ok"]) or (strict and bool(report["failed"])))


def status(*, job: Path) -> Result:
    """Say how far a job of `run` or of `encoder embed` has come, whether it runs, has ended or was stopped.

    Args:
        job: its --out.
    """
    from indexer.job_status import read_status
    from indexer.progress import per_second

    now = read_status(job)
    done, failed = now.totals.rows, now.totals.rows - now.totals.ok
    of = "" if now.rows is None else f" of {now.rows:,} ({done / max(now.rows, 1):.1%})"
    lines = [f"{job}: {now.state}, {done:,}{of} rows done, {failed:,} of them failed"]
    if now.rows_per_second is not None:
        left = "" if now.seconds_left is None else f", {now.seconds_left:,.0f} s left"
        lines.append(f"  {per_second(now.rows_per_second)} over the latest shards{left}")
    lines += [
        f"  failed: {count:,} {code}, such as {now.totals.examples[code][0]}: {now.totals.examples[code][1]}"
        for code, count in now.totals.failed.items()
    ]
    if now.state == "stopped":
        lines.append("  Give its command again: it goes on where it stopped.")
    data = asdict(now) | {"job": str(job), "kind": now.job.kind}
    return Result(data, "\n".join(lines))


def show(*, predictions: Path, photo: str) -> Result:
    """Show the answer to one photo of a job, which may still be running.

    Args:
        predictions: the job's --out.
        photo: its name in the job's input; the file name alone, or without suffix, will do where it is one of a kind.
    """
    from search.lookup import answers_to

    rows = answers_to(predictions, photo)
    for row in rows:
        row.pop("s2_id", None)  # JSON readers lose bits above 2**53; the token says the same
        row.pop("top_s2_id", None)
    return Result({"answers": rows}, "\n\n".join(_row_text(row) for row in rows))


def export(*, predictions: Path, out: Path | None = None, format: ExportFormat | None = None) -> Result:
    """Write all answers of a job to one file for spreadsheets and maps.

    Args:
        predictions: the job's --out.
        out: file to write; by default beside the job, with its name.
        format: csv, geojson or geoparquet; by default what the suffix of --out says.
    """
    from search.lookup import export_answers, export_target

    target = export_target(predictions, out, format)
    rows = export_answers(predictions, target)
    return Result({"file": str(target), "rows": rows}, f"{target}: {rows:,} rows")


def evaluate(
    *,
    truth: Path,
    predictions: Path | None = None,
    against: Path | None = None,
    exclude: Strings = NO_LISTS,
    report: Path | None = None,
    registry: Path | None = None,
    checkpoint: str | None = None,
    out: Path | None = None,
    benchmark: str | None = None,
    split: str | None = None,
    thresholds_km: Floats = THRESHOLDS_KM,
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

    from indexer.artifact import check_target
    from search.bootstrap import Resampling
    from search.evaluate import compare, evaluate_photos, leave_out
    from search.evaluation_report import Against, evaluation_data, evaluation_text
    from search.ground_truth import beside_truth, read_truth, write_photos

    if (predictions is None) == (registry is None) or (registry is None) != (checkpoint is None):
        raise InputError("Give either --predictions O, or --registry R together with --checkpoint C.")
    if predictions is not None and (out is not None or crops is not None or encoder.says_how_maps_come):
        raise InputError("--out, --crops, --segmentation-cache and --segmenter go with --registry: O has its answers.")
    if predictions is not None and (search != SearchOptions() or check_recall is not None):
        raise InputError(
            "--mode, --probes, --max-probes, --score and --check-recall go with --registry: O has its answers."
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
            ran = run(
                registry=registry,
                out=predictions,
                photos=source,
                checkpoint=checkpoint,
                split=split,
                version=version,
                crops=protocol,
                check_recall=check_recall,
                search=search,
                encoder=encoder,
                feed=feed,
            )
        assert predictions is not None
        result = evaluate_photos(predictions, photos, truth_source=str(truth), thresholds_km=thresholds_km)
    other = None
    if against is not None:
        theirs = evaluate_photos(against, photos, truth_source=str(truth), thresholds_km=thresholds_km)
        other = Against(str(against), theirs, compare(result, theirs, resampling))
    rest = leave_out(result, [Path(name) for name in exclude]) if exclude else None
    data = evaluation_data(result, resampling=resampling, benchmark=known, against=other, left_out=rest)
    if ran is not None:
        data |= {"crops": protocol, "search": ran.data["search"], "recall": ran.data["recall"]}
    what = ", ".join(part for part in (known, None if registry is None else _CROPS[protocol]) if part is not None)
    text = evaluation_text(data, what=what)
    if ran is not None and ran.data["recall"] is not None:
        text += f"\n\n{_recall_text(ran.data['recall'])}"
    if report is not None:
        from search.evaluation_page import write_evaluation

        title = f"{registry if registry is not None else predictions} on {known or truth}"
        write_evaluation(result, data, report, title=title, against=other)
        text += f"\n\nReport: {report / 'report.html'}"
    return Result(data, text, failed=ran is not None and ran.failed)


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
    from indexer.artifact import check_target
    from indexer.features import open_features
    from indexer.photos import open_photos
    from indexer.progress import track
    from search.audit import AuditConfig
    from search.audit import audit as audit_photos

    if (features is None) != (reference_features is None):
        raise InputError("Give --features and --reference-features together: embeddings are compared with each other.")
    if references is None and reference_split is not None:
        raise InputError("--reference-split goes with --references.")
    check_target(out)
    config = AuditConfig(max_bits, min_cosine, workers, read.max_pixels, read.limits)
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


def _answer_text(row: Mapping[str, Any]) -> str:
    if not row["path"]:
        return f"{row['photo']}\n  {row['status']}: {row['reason']}"
    kind = "calibrated" if row["calibrated"] else "not calibrated"
    lines = [
        row["photo"],
        f"  {row['lat']:.5f}, {row['lng']:.5f}  near {row['city']}, {row['country']}",
        f"  probability {row['probability']:.3f} ({kind}), cell {row['key']}, {row['mode']} search",
    ]
    lines += [
        f"    level {step['level']}: {step['probability']:.3f}  cell {step['key']:<10} "
        f"within {step['radius_km']:,.0f} km of a point near {step['city']}, {step['country']}"
        for step in row["path"]
    ]
    lines += [
        f"    {rank}. {place['lat']:.4f}, {place['lng']:.4f}  cell {place['key']}, "
        f"probability {place['probability']:.3f}"
        for rank, place in enumerate(row["top"], 1)
    ]
    return "\n".join(lines)


def _row_text(row: Mapping[str, Any]) -> str:
    if row["lat"] is None:
        return f"{row['photo']} (row {row['row']})\n  {row['status']}: {row['reason']}"
    kind = "calibrated" if row["calibrated"] else "not calibrated"
    lines = [
        f"{row['photo']} (row {row['row']})",
        f"  {row['lat']:.5f}, {row['lng']:.5f}  near {row['city']}, {row['country']}",
        f"  probability {row['probability']:.3f} ({kind}), cell {row['key']}, {row['mode']} search",
    ]
    places = zip(*(row.get(f"top_{name}") or () for name in ("lat", "lng", "key", "probability")), strict=True)
    lines += [
        f"    {rank}. {lat:.4f}, {lng:.4f}  cell {key}, probability {probability:.3f}"
        for rank, (lat, lng, key, probability) in enumerate(places, 1)
    ]
    return "\n".join(lines)


def _recall_text(recall: Mapping[str, Any]) -> str:
    return (
        f"recall@1 {recall['at_1']:.4f}, recall@10 {recall['at_10']:.4f} against exact search, on "
        f"{recall['queries']:,} of the queries"
    )


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
