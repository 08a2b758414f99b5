// The page: photos in, answers out. Whatever comes from outside is set as text, never as markup.
import {ask, form, Refusal} from "./api.js";
import {WorldMap} from "./map.js";
import {country, distance, percent, place, words} from "./words.js";

const $ = (id) => document.getElementById(id);
const make = (tag, text = "", attributes = {}) => {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};
const state = {photos: [], thumbnails: [], answers: [], posteriors: [], chosen: 0, version: null, asking: null, claim: null};
let world = null;

const say = (text, fault = false) => {
  $("state").textContent = text;
  $("state").classList.toggle("fault", fault);
};

const fields = () => ({
  k: $("k").value, crops: $("crops").value, region: $("region").value.trim(), not_region: $("not-region").value.trim(),
  album: $("album").checked && state.photos.length > 1 ? "yes" : "", posterior: "yes",
});

async function locate() {
  if (!state.photos.length) return;
  state.asking?.abort();
  const asking = state.asking = new AbortController();
  $("progress").hidden = false;
  say(words.loading(0, state.photos.length));
  try {
    const said = await ask("/v1/locate", {...form(state.photos, fields()), signal: asking.signal}, {waiting: say});
    state.answers = said.answers;
    state.posteriors = split(said);
    served(said.bundle);
    state.chosen = Math.min(state.chosen, state.answers.length - 1);
    say(words.answered(state.answers.filter((each) => each.status === "ok").length, state.answers.length));
    film();
    show();
    $("answer").focus({preventScroll: true});
  } catch (error) {
    if (error.name !== "AbortError") await explain(error);
  } finally {
    if (state.asking === asking) $("progress").hidden = true;
  }
}

// The posterior of each photo: the service has them one after the other, and names the photo by its row.
function split({answers, posterior}) {
  const parts = answers.map(() => ({type: "FeatureCollection", features: []}));
  for (const feature of posterior?.features || []) parts[feature.properties.row].features.push(feature);
  return parts;
}

async function explain(error) {
  if (error instanceof Refusal && error.status === 401) {
    $("login").hidden = false;
    $("ask").hidden = true;
    $("token").focus();
    say("");
  } else {
    say(error.message, true);
  }
}

function served(version) {
  if (state.version && state.version !== version) say(words.swapped(version));
  state.version = version;
  $("served").textContent = words.served(version);
}

async function take(files) {
  const photos = [...files].filter((file) => file.type.startsWith("image/") || file.type === "");
  if (!photos.length) { say(words.noPhoto, true); return; }
  for (const url of state.thumbnails) URL.revokeObjectURL(url);
  Object.assign(state, {photos, thumbnails: photos.map((photo) => URL.createObjectURL(photo)), answers: [], posteriors: [], chosen: 0});
  $("answer").hidden = true;
  await world?.clear();
  film();
  await locate();
}

function film() {
  const items = state.photos.map((photo, row) => {
    const button = make("button", "", {type: "button", "aria-label": photo.name || `photo ${row + 1}`});
    if (row === state.chosen) button.setAttribute("aria-current", "true");
    button.append(make("img", "", {src: state.thumbnails[row], alt: ""}));
    button.addEventListener("click", () => { state.chosen = Math.min(row, Math.max(state.answers.length - 1, 0)); film(); show(); });
    const item = make("li");
    item.append(button);
    return item;
  });
  $("film").replaceChildren(...items);
}

function table(title, heads, rows, figures) {
  const whole = make("table"), head = make("tr"), body = make("tbody");
  const kind = (column) => (figures.includes(column) ? {class: "figure"} : {});
  heads.forEach((text, column) => head.append(make("th", text, {scope: "col", ...kind(column)})));
  for (const cells of rows) {
    const row = make("tr");
    cells.forEach((text, column) => row.append(make("td", text, kind(column))));
    body.append(row);
  }
  const top = make("thead");
  top.append(head);
  whole.append(top, body);
  return [make("h3", title), whole];
}

function show() {
  const answer = state.answers[state.chosen], section = $("answer");
  section.hidden = !answer;
  if (!answer) return;
  const parts = [make("h2", state.answers.length === 1 && state.photos.length > 1 ? words.album(state.photos.length) : answer.photo)];
  if (answer.status !== "ok") {
    parts.push(make("p", `${answer.reason}.`, {class: "fault"}));
    section.replaceChildren(...parts);
    world?.clear();
    return;
  }
  parts.push(make("p", words.said(answer), {class: "said"}));
  if (answer.abstain) parts.push(make("p", words.abstain(answer.abstain), {class: "caveat"}));
  if (answer.class_map === false) parts.push(make("p", words.noMap, {class: "caveat"}));
  parts.push(make("p", words.probability(answer)));
  parts.push(make("p", `${answer.lat.toFixed(4)}, ${answer.lng.toFixed(4)}`, {class: "quiet"}));
  parts.push(actions(answer), claimForm());
  if (state.claim?.row === state.chosen) parts.push(...claimed(state.claim.check));
  parts.push(...table(words.path, words.pathHeads, answer.path.map((step) =>
    [`${step.level}`, percent(step.probability), place(step), distance(step.radius_km)]), [0, 1, 3]));
  if (answer.gallery.length) parts.push(...table(words.gallery, words.galleryHeads, answer.gallery.map((each) =>
    [each.photo, percent(each.weight), `${each.lat.toFixed(3)}, ${each.lng.toFixed(3)}`]), [1]));
  if (answer.top.length > 1) parts.push(...table(words.top, words.topHeads, answer.top.map((each, rank) =>
    [`${rank + 1}`, percent(each.probability), `${each.lat.toFixed(3)}, ${each.lng.toFixed(3)}`, each.key]), [0, 1]));
  section.replaceChildren(...parts);
  const claim = state.claim?.row === state.chosen ? [state.claim.check.lng, state.claim.check.lat] : null;
  world?.show(answer, state.posteriors[state.chosen], {claim});
}

function actions(answer) {
  const bar = make("div", "", {class: "actions"});
  const button = (text, act, plain = true) => {
    const made = make("button", text, {type: "button", ...(plain ? {class: "plain"} : {})});
    made.addEventListener("click", act);
    bar.append(made);
    return made;
  };
  button(words.sheet, sheet, false);
  button(words.geojson, () => save("answer.geojson", "application/geo+json", JSON.stringify(state.posteriors[state.chosen])));
  button(words.csv, () => save("answers.csv", "text/csv", csv()));
  return bar;
}

function claimed(check) {
  return [make("h3", words.claim), make("p", words.claimed(check)), make("p", words.claimFigures(check), {class: "quiet"})];
}

// A place by its name, by coordinates, or by a click on the map.
function claimForm() {
  const whole = make("form", "", {class: "claim", "aria-label": words.claim});
  const labelled = (text, input) => { const label = make("label", text); label.append(input); return label; };
  const where = make("input", "", {name: "claim", required: "", placeholder: words.claimExample, autocomplete: "off"});
  const within = make("input", "", {name: "within_km", type: "number", min: "0.1", step: "any"});
  if (state.claim?.row === state.chosen) [where.value, within.value] = state.claim.given;
  const choose = make("button", words.claimMap, {type: "button", class: "plain"});
  choose.addEventListener("click", async () => {
    say(words.claimHint);
    const [lng, lat] = await world.click();
    where.value = `${lat.toFixed(5)},${lng.toFixed(5)}`;
    checkClaim(where.value, within.value);
  });
  whole.append(labelled(words.claimPlace, where), labelled(words.claimWithin, within), make("button", words.claimAsk), choose);
  whole.addEventListener("submit", (event) => { event.preventDefault(); checkClaim(where.value, within.value); });
  return whole;
}

async function checkClaim(claim, within_km) {
  const row = state.chosen;
  $("progress").hidden = false;
  try {
    const said = await ask("/v1/check", form([state.photos[row]], {claim, within_km, crops: $("crops").value}), {waiting: say});
    const check = said.checks[0];
    state.claim = {row, check, given: [claim, within_km]};
    say("");
    show();
  } catch (error) {
    await explain(error);
  } finally {
    $("progress").hidden = true;
  }
}

async function sheet() {
  const photos = state.answers.length === 1 ? state.photos : [state.photos[state.chosen]];
  try {
    const page = await ask("/v1/locate", {...form(photos, fields()), headers: {Accept: "text/html"}}, {waiting: say});
    save("evidence.html", "text/html", page);
  } catch (error) {
    await explain(error);
  }
}

// Signs that spreadsheets take for formulas are marked as text.
function csv() {
  const columns = ["photo", "status", "reason", "lat", "lng", "city", "country", "probability", "calibrated", "radius_50_km", "radius_90_km", "abstain", "key"];
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : `${value}`;
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return [columns, ...state.answers.map((answer) => columns.map((name) => answer[name]))].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function save(name, type, content) {
  const link = make("a", "", {download: name});
  link.href = URL.createObjectURL(new Blob([content], {type}));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function drawBox() {
  const button = $("draw");
  button.setAttribute("aria-pressed", "true");
  say(words.drawing);
  const first = await world.click(), second = await world.click();
  const [south, north] = [first[1], second[1]].sort((a, b) => a - b), [west, east] = [first[0], second[0]];
  $("region").value = [south, west, north, east].map((degrees) => degrees.toFixed(3)).join(",");
  await world.drawBox([west, south], [east, north]);
  button.setAttribute("aria-pressed", "false");
  say("");
}

function listen() {
  $("photos").addEventListener("change", (event) => take(event.target.files));
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); locate(); });
  $("draw").addEventListener("click", drawBox);
  for (const kind of ["dragover", "dragenter"]) document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => $("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => { event.preventDefault(); if (event.dataTransfer.files.length) take(event.dataTransfer.files); });
  document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) take(event.clipboardData.files); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") { world?.cancelClick(); say(""); } });
  $("logout").addEventListener("click", async () => {
    await ask("/v1/session", {method: "DELETE"});
    location.reload();
  });
  $("login").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await ask("/v1/session", {method: "POST", headers: {Authorization: `Bearer ${$("token").value}`}});
      $("token").value = "";
      $("login").hidden = true;
      $("ask").hidden = false;
      await greet();
      $("photos").focus();
    } catch (error) {
      $("login-fault").textContent = error.message;
    }
  });
}

async function greet() {
  try {
    const {name} = await ask("/v1/session");
    $("logout").hidden = name === "anybody";
    $("logout").textContent = words.logout(name);
    served((await ask("/v1/bundle")).version);
  } catch (error) {
    await explain(error);
  }
}

async function begin() {
  listen();
  await greet();
  const {towns, countries} = await ask("/static/places.json");
  $("countries").replaceChildren(...countries.map((code) => make("option", country(code), {value: code})));
  world = new WorldMap("map", towns);
}

begin();
