"""Counts for Prometheus, as its own parser reads them."""

from prometheus_client.parser import text_string_to_metric_families

from search.service.metrics import Metrics


def values(metrics: Metrics) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {(each.name, *sorted(each.labels.values())): each.value for family in families for each in family.samples}


def test_a_batch_is_counted_by_its_stage() -> None:
    metrics = Metrics()
    metrics.observe("encode", 3, 0.02)
    metrics.observe("encode", 40, 0.2)
    found = values(metrics)
    assert found["geosurge_batch_rows_sum", "encode"] == 43
    assert found["geosurge_batch_rows_count", "encode"] == 2
    assert found["geosurge_batch_rows_bucket", "4.0", "encode"] == 1
    assert found["geosurge_stage_seconds_sum", "encode"] == 0.22


def test_services_of_one_process_count_for_themselves() -> None:
    one, other = Metrics(), Metrics()
    one.requests.labels("/v1/locate", "200").inc()
    assert ("geosurge_requests_total", "/v1/locate", "200") in values(one)
    assert ("geosurge_requests_total", "/v1/locate", "200") not in values(other)


def test_no_label_could_name_a_photo_a_place_or_a_token() -> None:
    collectors = [each for each in vars(Metrics()).values() if hasattr(each, "_labelnames")]
    assert len(collectors) >= 11
    assert {label for each in collectors for label in each._labelnames} == {"route", "status", "stage", "version"}
