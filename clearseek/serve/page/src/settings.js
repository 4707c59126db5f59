/** How answers are asked for. Kept in this browser. */

const PLACE = "clearseek.settings";

/** Numbers that a request may carry: name, label, least, most, step, what the server takes without it, meaning. */
export const NUMBERS = [
  ["temperature", "Temperature", 0, 100, "any", "1", "0 takes the likeliest token"],
  ["top_p", "Top-p", 0.01, 1, "any", "1", "the likeliest tokens that together hold this probability"],
  ["top_k", "Top-k", 0, 1000000, 1, "all", "the likeliest so many tokens; 0 for all"],
  ["min_p", "Min-p", 0, 1, "any", "0", "least probability, as a part of the likeliest token's"],
  ["max_tokens", "Most tokens", 1, 1000000, 1, "server's limit", "where an answer is cut"],
  ["seed", "Seed", 0, Number.MAX_SAFE_INTEGER, 1, "a new one each time", "a retry adds 1"],
];

const FIRST = { theme: "", system: "", schema: "", thinking: false, mode: "", side: null };

/** All settings; a change is `settings.x = …; keep()`. */
export const settings = { ...FIRST, ...read() };

function read() {
  try {
    const found = JSON.parse(localStorage.getItem(PLACE) ?? "{}");
    return typeof found === "object" && found !== null ? found : {};
  } catch {
    return {};
  }
}

/** Write the settings down. */
export function keep() {
  try {
    localStorage.setItem(PLACE, JSON.stringify(settings));
  } catch {
    // a full or forbidden storage: the settings last as long as the page
  }
}

/** The numbers that differ from the server's own, as fields of a request, with a seed in any case. */
export function numbers(retries) {
  const found = {};
  for (const [name] of NUMBERS) if (Number.isFinite(settings[name])) found[name] = settings[name];
  found.seed = found.seed === undefined ? newSeed() : (found.seed + retries) % Number.MAX_SAFE_INTEGER;
  return found;
}

function newSeed() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return (high % 2 ** 21) * 2 ** 32 + low;
}

/** The JSON schema that answers must follow, or null. Throws SyntaxError for text that is no JSON object. */
export function schema(text = settings.schema) {
  if (!text.trim()) return null;
  const found = JSON.parse(text);
  if (typeof found !== "object" || found === null || Array.isArray(found)) throw new SyntaxError("not a JSON object");
  return found;
}
