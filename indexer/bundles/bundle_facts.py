"""What a bundle is made of, for programs: what `python -m indexer info --json` says of one."""

from dataclasses import asdict
from typing import Any

from indexer.bundles.bundle import Bundle
from indexer.bundles.gallery import FILES
from indexer.vectors.calibration import calibration_facts


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """Version, encoder, cells, calibrations, gallery and indices of a bundle."""
    geocells = bundle.model.geocells
    return {
        "version": bundle.version,
        "size_bytes": sum(entry.size_bytes for entry in bundle.manifest.files.values()),
        "encoder": bundle.encoder,
        "hierarchy": bundle.hierarchy.digest,
        "width": geocells.width,
        "head": "geocells" if geocells.biases is None else "classes",
        "temperatures": geocells.temperatures.tolist(),
        "level_weights": geocells.level_weights.tolist(),
        "calibration": _calibration_data(bundle),
        "precision_cap_km": bundle.precision_cap_km,
        "gallery": _gallery_data(bundle),
        "leaf_index": asdict(bundle.index_facts),
        "beam": asdict(bundle.beam),
        "levels": bundle.hierarchy.describe(),
    }


def _calibration_data(bundle: Bundle) -> dict[str, Any] | None:
    """What its manifest says of calibrations, but of nonconformities their number alone."""
    facts = calibration_facts(bundle.calibrations)
    for each in (facts or {}).values():
        for numbers in (each, each["with_photos"] or {}):
            numbers["nonconformities"] = len(numbers.get("nonconformities", ()))
    return facts


def _gallery_data(bundle: Bundle) -> dict[str, Any] | None:
    """What programs are told of its gallery."""
    gallery = bundle.gallery
    if gallery is None:
        return None
    empty = int((gallery.begins[1:] == gallery.begins[:-1]).sum())
    size = sum(bundle.manifest.files[name].size_bytes for name in FILES)
    return {
        **asdict(gallery.facts),
        "keeps_calibrations": gallery.facts.keeps_calibrations,
        "size_bytes": size,
        "leaves_without_photos": empty,
    }
