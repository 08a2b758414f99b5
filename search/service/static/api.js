// Requests to the service; an error is thrown with the sentence that the service gave.
import {words} from "./words.js";

export class Refusal extends Error {
  constructor(status, text, retryS) { super(text); this.status = status; this.retryS = retryS; }
}

const pause = (s) => new Promise((done) => { setTimeout(done, 1000 * s); });

export async function ask(path, options = {}, {waiting = () => {}, tries = 5} = {}) {
  for (let left = tries; ; left -= 1) {
    let response;
    try {
      response = await fetch(path, {credentials: "same-origin", ...options});
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal(0, words.unreachable);
    }
    const retryS = Number(response.headers.get("Retry-After")) || 2;
    if (response.status === 429 && left > 1) {
      waiting(words.full(retryS));
      await pause(retryS);
      continue;
    }
    const json = (response.headers.get("Content-Type") || "").includes("json");
    if (response.ok) return json ? response.json() : response.text();
    const said = json ? await response.json() : {};
    // Photos that could not be read are answers too.
    if (response.status === 422 && said.answers) return said;
    throw new Refusal(response.status, said.error || `${response.status} ${response.statusText}`, retryS);
  }
}

export function form(photos, fields) {
  const body = new FormData();
  for (const photo of photos) body.append("photos", photo, photo.name || "photo");
  for (const [name, value] of Object.entries(fields)) if (value !== "" && value !== null) body.append(name, value);
  return {method: "POST", body};
}
