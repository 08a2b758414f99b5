"""What the OpenAPI description says of bodies and answers that FastAPI cannot see, with examples of their form."""

from typing import Any

_ERROR = {
    "content": {
        "application/json": {
            "schema": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
        }
    }
}


def _errors(**texts: str) -> dict[str, Any]:
    return {status.removeprefix("s"): {"description": text, **_ERROR} for status, text in texts.items()}


_ERRORS = _errors(
    s400="A field that makes no sense; `error` says what to do.",
    s401="No token, where this service wants one.",
    s403="A page of another origin sent it.",
    s408="It did not arrive in time.",
    s413="Too many photos, or too many bytes.",
    s415="Another kind of body than this route takes.",
    s421="The Host is no name of this service.",
    s422="No photo could be read.",
    s429="No room, or too many a minute: try again after as many seconds as Retry-After says.",
    s503="A part of the service does not work at present: try again.",
    s504="It took too long.",
)
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_SWITCH: dict[str, Any] = {"type": "string", "enum": ["yes", "no"], "default": "no"}
_SEARCH_FIELDS: dict[str, Any] = {
    "crops": {
        "type": "string",
        "enum": ["one", "five", "ten"],
        "default": "one",
        "description": "of each photo, averaged; a calibration is of one of these",
    },
    "region": {
        "type": "string",
        "description": "search only there: country codes, a box as south,west,north,east, or GeoJSON itself",
        "example": "FR,DE",
    },
    "not_region": {"type": "string", "description": "do not search there"},
    "point": {
        "type": "string",
        "enum": ["density", "cell", "medoid", "mass"],
        "description": "where an answer points; by default density where photos count, else cell",
    },
    "k": {"type": "integer", "minimum": 1, "default": 1, "description": "how many places to name"},
    "album": {**_SWITCH, "description": "whether all are of one place, and have one answer"},
    "posterior": {
        **_SWITCH,
        "description": "whether to tell the posteriors beside the answers, as GeoJSON in `posterior`; each feature has "
        "the `row` of its photo",
    },
}
_PHOTO_FIELDS: dict[str, Any] = {
    "photos": {**_FILES, "description": "image files; nothing of their metadata is used or kept but their orientation"},
    "class_maps": {**_FILES, "description": "PNGs, one for each photo, for an encoder with semantic fusion"},
}
_ANSWER = {
    "row": 0,
    "photo": "bridge.jpg",
    "status": "ok",
    "reason": "",
    "lat": 45.764,
    "lng": 4.8357,
    "key": "47f4ea54",
    "city": "Lyon",
    "country": "FR",
    "probability": 0.41,
    "calibrated": True,
    "radius_50_km": 9.2,
    "radius_90_km": 140.0,
}
_HEAD = {"bundle": "9f2c...", "encoder": "41aa..."}


def _form(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _json(description: str, example: Any) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"type": "object"}, "example": example}},
    }


_PLACES = _json(
    "An answer to each photo, in order, as the command `query` has it in JSON.", {**_HEAD, "answers": [_ANSWER]}
)
# Asked for by Accept: the posteriors alone, or a page with all of it for people.
_PLACES["content"]["application/geo+json"] = {"schema": {"type": "object"}}
_PLACES["content"]["text/html"] = {"schema": {"type": "string"}}

LOCATE: dict[str, Any] = {
    "requestBody": _form({**_PHOTO_FIELDS, **_SEARCH_FIELDS}, ["photos"]),
    "responses": {"200": _PLACES, **_ERRORS},
}
CHECK: dict[str, Any] = {
    "requestBody": _form(
        {
            **_PHOTO_FIELDS,
            "claim": {
                "type": "string",
                "description": "latitude and longitude in degrees, or the name of a city",
                "example": "48.8584,2.2945",
            },
            "within_km": {"type": "number", "description": "how far from there it may have been"},
            "crops": _SEARCH_FIELDS["crops"],
        },
        ["photos", "claim"],
    ),
    "responses": {
        "200": _json(
            "What is thought of each photo, in order, as the command `check` has it in JSON.",
            {**_HEAD, "checks": [{"row": 0, "photo": "bridge.jpg", "p_value": 0.34, "mass": 0.41, "rank": 1}]},
        ),
        **_ERRORS,
    },
}
VECTORS: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {key: value for key, value in field.items() if key != "example"},
        }
        for name, field in _SEARCH_FIELDS.items()
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/x-npy": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "vectors": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
                    },
                    "required": ["vectors"],
                }
            },
        },
    },
    "responses": {"200": _PLACES, **_ERRORS},
}
BUNDLE: dict[str, Any] = {
    "responses": {"200": _json("What the command `info` says of it in JSON.", {"version": "9f2c..."}), **_ERRORS}
}
CELL: dict[str, Any] = {
    "responses": {
        "200": _json("The cell.", {"bundle": "9f2c...", "key": "47f4ea54", "levels": [6], "n_photos": 87}),
        **_errors(s404="No cell of that key."),
        **_ERRORS,
    }
}
READY: dict[str, Any] = {
    "responses": {
        "200": _json("It answers.", {"ready": True, "faults": {}, "version": "9f2c...", "refused": None, "swaps": 0}),
        "503": _json("A stage does not work at present.", {"ready": False, "faults": {"decode": "..."}}),
    }
}
