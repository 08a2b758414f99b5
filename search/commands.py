"""The commands of `python -m search` that answer. Each is arguments -> one library call -> one result; imports wait."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from encoder.config import CropName, EncoderOptions, ReadOptions
from indexer.cli import Result
from indexer.earth.geo import distance_text
from indexer.errors import InputError
from search.answers.options import SearchOptions
from search.runs.run_spec import RunConfig, RunSpec

if TYPE_CHECKING:
    from indexer.photos.photo import Photo
    from indexer.vectors.features import FeatureBatch
    from search.answers.claims import CheckedClaim
    from search.locate import Locator

ExportFormat = Literal["csv", "geojson", "geoparquet"]
# Where the path may be the wrong one. Other reasons, such as a class map that is missing, say themselves what to do.
_FILE_FAULTS = {"missing", "unreadable", "empty", "not_an_image", "damaged"}


def query(
    *,
    photos: list[str],
    registry: Path,
    checkpoint: str,
    top_k: int = 1,
    version: str | None = None,
    crops: CropName = "one",
    class_maps: tuple[str, ...] = (),
    geojson: Path | None = None,
    html: Path | None = None,
    level: int | None = None,
    audit_log: Path | None = None,
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
        class_maps: of the photos, one for each in their order, for an encoder with semantic fusion. An encoder that
            learned to do without answers photos without one too, and says so.
        geojson: file to write: cells with their share of each photo's posterior, which add up to 1, and the photos that
            decided with their weights (or .parquet).
        html: page to write, with the photos, their answers and maps of the posterior.
        level: whose cells the maps have, 0 the coarsest; the finest by default.
        audit_log: file to add a line to that says who asked for which photos, and when.
        search: how their places are searched for.
        encoder: which other maps it sees, and where it runs.
        read: which photos are read.
    """
    from search.locate import Locator, given_photos
    from search.pages.answer_page import MapFiles
    from search.runs.audit_log import log_request

    locator = Locator.open(
        registry, checkpoint=checkpoint, version=version, crops=crops, options=search, read=read, **vars(encoder)
    )
    bundle = locator.engine.bundle
    locator.engine.check_k(top_k, name="top_k")
    maps = MapFiles(bundle.hierarchy, geojson=geojson, html=html, level=level)
    given = given_photos(photos, class_maps or None)
    facts = {"photos": photos, "registry": registry, "bundle": bundle.version, "crops": crops}
    log_request(audit_log, "query", **facts, **search.given)
    batch = _embedded(locator, given)
    answers = locator.answers(batch, k=top_k)
    rows = [answer.to_dict() for answer in answers]
    if maps.wanted:
        maps.write(answers, given, locator.posterior(batch, k=top_k), engine=locator.engine, read=read)
    data = {"bundle": bundle.version, "encoder": locator.encoder_digest, "answers": rows}
    failed = not all(answer.ok for answer in answers)
    return Result(data, "\n\n".join(_answer_text(row) for row in rows), failed=failed)


def check(
    *,
    photos: list[str],
    registry: Path,
    checkpoint: str,
    claim: str,
    within_km: float | None = None,
    version: str | None = None,
    crops: CropName = "one",
    class_maps: tuple[str, ...] = (),
    audit_log: Path | None = None,
    search: SearchOptions,
    encoder: EncoderOptions,
    read: ReadOptions,
) -> Result:
    """Say whether photos may have been taken where they are said to have been.

    Args:
        photos: image files, paths or URIs; each is checked by itself.
        registry: registry folder with a published bundle that was calibrated.
        checkpoint: the checkpoint the bundle was built from, or hf:<hub id or folder>.
        claim: latitude and longitude, with = in front: --claim=-33.8568,151.2153; or the name of a city, such as Lyon,
            or Paris, US.
        within_km: how far from there a photo may have been taken; by default at that very place, or, of a city, within
            25 km.
        version: a bundle's digest or its beginning; the current one by default.
        crops: of each photo, averaged: the middle; that and four corners; those and their mirror images.
        class_maps: of the photos, as for `query`.
        audit_log: file to add a line to that says who asked for which photos and claim, and when.
        search: of these --gallery off and --precision-cap count; the search is exact.
        encoder: which other maps it sees, and where it runs.
        read: which photos are read.
    """
    from search.locate import Locator, given_photos
    from search.runs.audit_log import log_request

    locator = Locator.open(
        registry, checkpoint=checkpoint, version=version, crops=crops, options=search, read=read, **vars(encoder)
    )
    wanted = locator.claim(claim, within_km=within_km)
    given = given_photos(photos, class_maps or None)
    bundle = locator.engine.bundle.version
    facts = {"photos": photos, "registry": registry, "bundle": bundle, "crops": crops, "claim": claim}
    log_request(audit_log, "check", **facts, within_km=within_km, **search.given)
    checked = locator.checked(_embedded(locator, given), wanted)
    data = {
        "bundle": bundle,
        "encoder": locator.encoder_digest,
        "checks": [each.to_dict() for each in checked],
    }
    failed = not all(each.ok for each in checked)
    return Result(data, "\n\n".join(map(_check_text, checked)), failed=failed)


def run(*, spec: RunSpec, out: Path, config: RunConfig, strict: bool = False) -> Result:
    """Answer many photos at once, from their vectors or from the photos themselves, into a folder of Parquet rows.

    A job that was cut short, however it was, goes on where it stopped when the same command is given again.

    Args:
        spec: what decides the answers.
        out: predictions folder to write.
        config: how they are made.
        strict: exit with 1 if any photo has no answer; otherwise only if none has.
    """
    from indexer.jobs.progress import counts_text, per_second
    from search.runs import job
    from search.runs.run_report import REPORT_PAGE

    report = job.run(spec, out, config=config)
    text = (
        f"{out}: {report.rows:,} photos, {report.rows_known:,} of them answered before, in {report.seconds:.1f} s "
        f"({per_second(report.rows_per_second)}); {report.ok:,} answered, failed: {counts_text(report.failed)}\n"
        f"Report: {out / REPORT_PAGE}"
    )
    if report.recall is not None:
        text += f"\n{report.recall}"
    elif config.check_recall is not None:
        text += "\nRecall was not measured: no row was left to answer. Choose another --out."
    data = {"predictions": str(out), "bundle": report.inputs["bundle"], **report.to_dict()}
    return Result(data, text, failed=bool(report.rows and not report.ok) or (strict and bool(report.failed)))


def status(*, job: Path) -> Result:
    """Say how far a job of `run` or of `encoder embed` has come, whether it runs, has ended or was stopped.

    Args:
        job: its --out.
    """
    from indexer.jobs.job_status import read_status
    from indexer.jobs.progress import per_second

    now = read_status(job)
    done, failed = now.totals.rows, now.totals.rows - now.totals.ok
    of = "" if now.rows is None else f" of {now.rows:,} ({done / max(now.rows, 1):.1%})"
    lines = [f"{job}: {now.state}, {done:,}{of} rows done, {failed:,} of them failed"]
    if now.rows_per_second is not None:
        left = "" if now.seconds_left is None else f", {now.seconds_left:,.0f} s left"
        lines.append(f"  {per_second(now.rows_per_second)} over the latest shards{left}")
    if now.state != "ended":
        lines += [f"  {stage.name}: {stage.rows:,} rows in {stage.busy_s:,.1f} s at work" for stage in now.stages]
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
    from search.runs.lookup import answers_to

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
    from search.runs.lookup import export_answers, export_target

    target = export_target(predictions, out, format)
    rows = export_answers(predictions, target)
    return Result({"file": str(target), "rows": rows}, f"{target}: {rows:,} rows")


def _embedded(locator: "Locator", given: "list[Photo]") -> "FeatureBatch":
    """The vectors of photos; an InputError where none of them can be read."""
    batch = locator.embed(given)
    if not batch.ok.any():
        reasons = "; ".join(f"{photo}: {reason}" for photo, reason in zip(batch.photo, batch.reason, strict=True))
        advice = " Give paths of image files." if _FILE_FAULTS.intersection(batch.status) else ""
        raise InputError(f"No photo to answer. {reasons}.{advice}")
    return batch


def _check_text(checked: "CheckedClaim") -> str:
    if not checked.ok:
        return f"{checked.photo}\n  {checked.status}: {checked.reason}"
    where = (
        "in the cells of the precision cap" if checked.mass_km is None else f"within {distance_text(checked.mass_km)}"
    )
    cell = (
        "in no cell" if checked.key is None else f"its cell {checked.key} ranks {checked.rank:,} of {checked.cells:,}"
    )
    rough = ", roughly" if checked.approximate else ""
    return "\n".join(
        [
            checked.photo,
            f"  {checked.lat_deg:.5f}, {checked.lng_deg:.5f}" + (f"  {checked.name}" if checked.name else ""),
            f"  p-value {checked.p_value:.4f}{rough}, against {checked.held_out:,} held-out photos; {checked.mass:.3f} "
            f"of the probability {where}; {cell}; by {checked.evidence}",
            f"  {checked.text}",
        ]
    )


def _extent_text(radius_km: float) -> str:
    """How far the photos of a cell reach; of a named place, or of a single photo, nobody knows."""
    return f"within {distance_text(radius_km)} of a point" if radius_km >= 5e-4 else "at a place"


def _answer_text(row: Mapping[str, Any]) -> str:
    if row["lat"] is None:
        return f"{row['photo']}\n  {row['status']}: {row['reason']}"
    kind = "calibrated" if row["calibrated"] else "not calibrated"
    lines = [
        row["photo"],
        f"  {row['lat']:.5f}, {row['lng']:.5f}  near {row['city']}, {row['country']}",
        f"  probability {row['probability']:.3f} ({kind}), cell {row['key']}, {row['mode']} search, by "
        f"{row['evidence']}",
    ]
    if row["point_key"] not in (None, row["key"]):
        lines.append(f"  the place lies in cell {row['point_key']}, where photos that look alike are dense")
    if row["radius_90_km"] is not None:
        lines.append(
            f"  half of such photos were taken within {distance_text(row['radius_50_km'])}, nine in ten within "
            f"{distance_text(row['radius_90_km'])}; entropy {row['entropy']:.2f} nats"
        )
    if row["class_map"] is False:
        only_if = "; probability and radii hold only if it was calibrated so" if row["calibrated"] else ""
        lines.append(f"  no class map: answered from the photo alone{only_if}")
    if row["abstain"] is not None:
        lines.append(f"  abstain: {row['abstain']}")
    lines += [
        f"    level {step['level']}: {step['probability']:.3f}  cell {step['key']:<10} "
        f"{_extent_text(step['radius_km'])} near {step['city']}, {step['country']}"
        for step in row["path"]
    ]
    lines += [
        f"    {rank}. {place['lat']:.4f}, {place['lng']:.4f}  cell {place['key']}, "
        f"probability {place['probability']:.3f}"
        for rank, place in enumerate(row["top"], 1)
    ]
    lines += [
        f"    {each['weight']:.0%} by {each['photo']} ({each['cosine']:.3f} alike), taken at {each['lat']:.4f}, "
        f"{each['lng']:.4f}"
        for each in row["gallery"]
    ]
    return "\n".join(lines)


def _row_text(row: Mapping[str, Any]) -> str:
    """The same of a row of a job, whose other places stand in columns of their own."""
    top = _listed(row, "top", ("lat", "lng", "key", "probability"))
    gallery = _listed(row, "gallery", ("photo", "lat", "lng", "cosine", "weight"))
    title = f"{row['photo']} (row {row['row']})"
    return _answer_text({**row, "photo": title, "path": (), "top": top, "gallery": gallery})


def _listed(row: Mapping[str, Any], prefix: str, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """What the list columns of a row hold, one for each entry."""
    entries = zip(*(row.get(f"{prefix}_{name}") or () for name in names), strict=True)
    return [dict(zip(names, entry, strict=True)) for entry in entries]
