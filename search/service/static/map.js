// The map: land, borders and cities that the service has itself; cells, radii, photos and clicks over them.
const dark = matchMedia("(prefers-color-scheme: dark)");
const COLOURS = {
  light: {sea: "#dfe9f0", land: "#f3f1ea", shore: "#9aa5b1", border: "#b9b3a6", town: "#7d8791"},
  dark: {sea: "#0f1a24", land: "#252b31", shore: "#51606e", border: "#4a4f55", town: "#8b96a2"},
};
const NOTHING = {type: "FeatureCollection", features: []};
const EARTH_KM = 6371.0088;
const TOWNS_SHOWN = 24;
const ANSWER = "#d55e00";

// A circle of some km around a place, as a line whose longitudes do not jump.
function circle([lng, lat], km) {
  const angle = km / EARTH_KM, north = Math.min(Math.max(lat, -89.9999), 89.9999) * Math.PI / 180, points = [];
  let before = 0, turns = 0;
  for (let step = 0; step <= 180; step += 1) {
    const turn = step * Math.PI / 90;
    const y = Math.asin(Math.sin(north) * Math.cos(angle) + Math.cos(north) * Math.sin(angle) * Math.cos(turn));
    const x = Math.atan2(Math.sin(turn) * Math.sin(angle) * Math.cos(north), Math.cos(angle) - Math.sin(north) * Math.sin(y));
    if (step && x - before > Math.PI) turns -= 1;
    if (step && before - x > Math.PI) turns += 1;
    before = x;
    points.push([lng + (x + 2 * Math.PI * turns) * 180 / Math.PI, y * 180 / Math.PI]);
  }
  return points;
}

export class WorldMap {
  constructor(container, towns) {
    this.towns = towns;
    this.labels = [];
    this.pending = null;
    this.map = new maplibregl.Map({
      container, style: this.style(), center: [10, 25], zoom: 1, attributionControl: false, dragRotate: false,
      maxZoom: 15, renderWorldCopies: true,
    });
    this.map.touchZoomRotate.disableRotation();
    this.map.addControl(new maplibregl.NavigationControl({showCompass: false}));
    this.map.addControl(new maplibregl.ScaleControl());
    this.map.getCanvas().setAttribute("aria-label", "Map of the world");
    this.ready = new Promise((done) => { this.map.once("load", done); });
    this.map.on("moveend", () => this.label());
    this.map.on("click", ({lngLat}) => {
      const pending = this.pending;
      if (pending) pending(lngLat.wrap());
    });
    dark.addEventListener("change", () => {
      this.map.setStyle(this.style());
      this.map.once("styledata", () => this.redraw());
    });
    this.drawn = null;
    this.ready.then(() => this.label());
  }

  style() {
    const colours = COLOURS[dark.matches ? "dark" : "light"];
    const kind = (name) => ["==", ["get", "kind"], name];
    return {
      version: 8,
      sources: {
        world: {type: "geojson", data: "/static/world.json"},
        posterior: {type: "geojson", data: NOTHING},
        answer: {type: "geojson", data: NOTHING},
      },
      layers: [
        {id: "sea", type: "background", paint: {"background-color": colours.sea}},
        {id: "land", type: "fill", source: "world", filter: kind("land"), paint: {"fill-color": colours.land}},
        {id: "lakes", type: "fill", source: "world", filter: kind("lakes"), paint: {"fill-color": colours.sea}},
        {id: "cells", type: "fill", source: "posterior", filter: kind("cell"), paint: {
          "fill-color": ["interpolate", ["linear"], ["log10", ["max", ["get", "share"], 1e-4]],
            -4, "#c7e9b4", -3, "#7fcdbb", -2, "#41b6c4", -1, "#2c7fb8", 0, "#253494"],
          "fill-opacity": ["interpolate", ["linear"], ["log10", ["max", ["get", "share"], 1e-4]], -4, 0, -3, 0.2, 0, 0.75]}},
        {id: "borders", type: "line", source: "world", filter: kind("borders"), paint: {"line-color": colours.border, "line-width": 0.8}},
        {id: "shore", type: "line", source: "world", filter: kind("land"), paint: {"line-color": colours.shore, "line-width": 0.5}},
        {id: "half", type: "line", source: "answer", filter: kind("half"), paint: {"line-color": ANSWER, "line-width": 2}},
        {id: "most", type: "line", source: "answer", filter: kind("most"), paint: {"line-color": ANSWER, "line-width": 2, "line-dasharray": [3, 2]}},
        {id: "box", type: "line", source: "answer", filter: kind("box"), paint: {"line-color": "#0a6ebd", "line-width": 2}},
        {id: "photos", type: "circle", source: "answer", filter: kind("photo"), paint: {
          "circle-radius": ["+", 3, ["*", 10, ["sqrt", ["get", "weight"]]]], "circle-color": "transparent",
          "circle-stroke-color": "#cc79a7", "circle-stroke-width": 2}},
        {id: "claim", type: "circle", source: "answer", filter: kind("claim"), paint: {
          "circle-radius": 8, "circle-color": "transparent", "circle-stroke-color": "#009e73", "circle-stroke-width": 3}},
        {id: "place", type: "circle", source: "answer", filter: kind("place"), paint: {
          "circle-radius": 6, "circle-color": ANSWER, "circle-stroke-color": "#fff", "circle-stroke-width": 2}},
      ],
    };
  }

  // An answer with its posterior; `claim` is a place [lng, lat] that was checked.
  async show(answer, posterior, {claim = null, move = true} = {}) {
    this.drawn = [answer, posterior, {claim, move: false}];
    await this.ready;
    const feature = (kind, type, coordinates, more = {}) => ({type: "Feature", properties: {kind, ...more}, geometry: {type, coordinates}});
    const features = [], centre = [answer.lng, answer.lat];
    if (answer.radius_50_km !== null) features.push(feature("half", "LineString", circle(centre, answer.radius_50_km)));
    if (answer.radius_90_km !== null) features.push(feature("most", "LineString", circle(centre, answer.radius_90_km)));
    for (const each of answer.gallery) features.push(feature("photo", "Point", [each.lng, each.lat], {weight: each.weight}));
    if (claim) features.push(feature("claim", "Point", claim));
    features.push(feature("place", "Point", centre));
    this.map.getSource("posterior").setData(posterior || NOTHING);
    this.map.getSource("answer").setData({type: "FeatureCollection", features});
    if (move) this.fit(answer, posterior);
  }

  async clear() {
    this.drawn = null;
    await this.ready;
    this.map.getSource("posterior").setData(NOTHING);
    this.map.getSource("answer").setData(NOTHING);
  }

  redraw() {
    if (this.drawn) this.show(...this.drawn);
  }

  // As far as nine in ten such photos are, or as the likeliest cells reach where no radius is known.
  fit(answer, posterior) {
    const bounds = new maplibregl.LngLatBounds();
    if (answer.radius_90_km !== null) {
      for (const point of circle([answer.lng, answer.lat], 1.3 * answer.radius_90_km)) bounds.extend(point);
    } else {
      let held = 0;
      for (const {geometry, properties} of (posterior || NOTHING).features) {
        if (properties.kind !== "cell" || held > 0.9) break;
        held += properties.share;
        for (const ring of geometry.coordinates.flat(geometry.type === "Polygon" ? 0 : 1)) for (const point of ring) bounds.extend(this.near(point, answer.lng));
      }
    }
    bounds.extend([answer.lng, answer.lat]);
    this.map.fitBounds(bounds, {padding: 30, maxZoom: 13, animate: !matchMedia("(prefers-reduced-motion: reduce)").matches});
  }

  near([lng, lat], around) {
    return [((lng - around + 540) % 360 + 360) % 360 - 180 + around, lat];
  }

  // The next click on the map as [lng, lat].
  click() {
    this.map.getCanvas().style.cursor = "crosshair";
    return new Promise((done) => {
      this.pending = ({lng, lat}) => {
        this.pending = null;
        this.map.getCanvas().style.cursor = "";
        done([lng, lat]);
      };
    });
  }

  cancelClick() {
    this.pending = null;
    this.map.getCanvas().style.cursor = "";
  }

  async drawBox([west, south], [east, north]) {
    await this.ready;
    const ring = [[west, south], [east, south], [east, north], [west, north], [west, south]];
    this.map.getSource("answer").setData({type: "FeatureCollection", features: [
      {type: "Feature", properties: {kind: "box"}, geometry: {type: "LineString", coordinates: ring}}]});
  }

  // Names of the largest towns in view, none over another.
  label() {
    for (const each of this.labels) each.remove();
    this.labels = [];
    const bounds = this.map.getBounds(), taken = [], middle = this.map.getCenter().lng;
    for (const [name, lat, lng] of this.towns) {
      if (this.labels.length >= TOWNS_SHOWN) break;
      const at = this.near([lng, lat], middle);
      if (!bounds.contains(at)) continue;
      const {x, y} = this.map.project(at);
      if (taken.some(([a, b]) => Math.abs(a - x) < 90 && Math.abs(b - y) < 22)) continue;
      taken.push([x, y]);
      const text = document.createElement("span");
      text.className = "city";
      text.textContent = name;
      text.setAttribute("aria-hidden", "true");
      this.labels.push(new maplibregl.Marker({element: text, anchor: "top"}).setLngLat(at).addTo(this.map));
    }
  }
}
