/** The server's answers as they come. */
import { createParser } from "eventsource-parser";

/** A refusal, or a connection that broke. */
export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const KEY = "clearseek.key";

/** The API key, kept for this tab alone. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

async function request(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  let told = "";
  try {
    told = (await response.json()).error.message;
  } catch {
    // not this server's form of an error: the status must do
  }
  throw new Failure(told || `The server answered with status ${response.status}.`, response.status);
}

/** What the server tells of its model. */
export async function model() {
  return (await (await request("/v1/models")).json()).data[0];
}

/** Ask for an answer as a stream; `take` gets each event's value. */
export async function stream(path, body, signal, take) {
  const response = await request(path, { method: "POST", body: JSON.stringify({ ...body, stream: true }), signal });
  let done = false;
  const parser = createParser({
    onEvent: ({ data }) => {
      if (data === "[DONE]") return void (done = true);
      const value = JSON.parse(data);
      if (value.error) throw new Failure(value.error.message, value.error.status ?? 500);
      take(value);
    },
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) parser.feed(part.value);
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Failure) throw error;
    throw new Failure("The connection broke before the answer ended.");
  }
  if (!done) throw new Failure("The server ended the answer early.");
}
