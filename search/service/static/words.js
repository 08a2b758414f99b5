// All that the page says, in one place.
const number = new Intl.NumberFormat("en", {maximumFractionDigits: 0});

export const distance = (km) => {
  if (km < 0.995) return `${number.format(Math.max(10, Math.round(km * 100) * 10))} m`;
  return km < 9.95 ? `${km.toFixed(1)} km` : `${number.format(km)} km`;
};
export const percent = (share) => share < 0.001 ? "under 0.1 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
const regions = new Intl.DisplayNames(["en"], {type: "region"});
export const country = (code) => {
  try { return code ? regions.of(code) : ""; } catch { return code; }
};
export const place = (answer) => `${answer.city}, ${country(answer.country)}`;

export const words = {
  loading: (done, all) => all === 1 ? "Looking at the photo ..." : `Looking at ${all} photos ...`,
  sending: "Sending ...",
  answered: (ok, all) => ok === all ? `${all === 1 ? "Answered" : `${all} photos answered`}.` : `${ok} of ${all} photos answered.`,
  served: (version) => `Answers are from version ${version.slice(0, 12)}`,
  swapped: (version) => `A new version is served from now on: ${version.slice(0, 12)}. Ask again to have its answers.`,
  full: (seconds) => `Many are asking at this moment. It is asked again in ${seconds} s.`,
  unreachable: "The service cannot be reached. Is it still running?",
  noPhoto: "That is no photo: choose an image file.",
  said: (answer) => {
    const near = place(answer);
    if (answer.abstain) return `It cannot be told where this was taken. The best guess is near ${near}.`;
    if (answer.radius_90_km === null) return `Perhaps near ${near}. How sure that is was not calibrated for such photos.`;
    const sure = answer.radius_90_km <= 50 ? "Very likely" : answer.radius_90_km <= 300 ? "Probably" : "Perhaps";
    return `${sure} near ${near}: nine in ten photos like this were taken within ${distance(answer.radius_90_km)} of the place we name, half of them within ${distance(answer.radius_50_km)}.`;
  },
  probability: (answer) => `Probability of its cell: ${percent(answer.probability)}${answer.calibrated ? "" : ", not calibrated: read it as a ranking, not as a chance"}. Decided by ${answer.evidence.startsWith("cells+photos") ? "cells and photos of known places" : "cells"}.`,
  noMap: "Answered from the photo alone, without its class map: probability and radii hold only if it was calibrated so.",
  album: (n) => `${n} photos, answered as one place`,
  abstain: (why) => `Do not rely on it: ${why}.`,
  path: "The way down to it", top: "Other places", gallery: "Photos of known places that decided",
  pathHeads: ["level", "share", "near", "within"], topHeads: ["", "probability", "place", "cell"], galleryHeads: ["photo", "weight", "place"],
  claim: "Check a claim", claimPlace: "Said to be from", claimExample: "Lyon, or 45.76,4.84", claimWithin: "within km", claimAsk: "Check",
  claimMap: "Choose on the map", claimHint: "Click the place on the map where it is said to have been taken.",
  claimed: (check) => check.text,
  claimFigures: (check) => `p-value ${check.p_value.toFixed(3)}${check.approximate ? ", roughly" : ""}, against ${number.format(check.held_out)} photos whose places are known.`,
  geojson: "Save as GeoJSON", csv: "Save as CSV", sheet: "Evidence sheet",
  drawing: "Click two opposite corners of the box on the map.",
  logout: (name) => `Log out ${name}`,
};
