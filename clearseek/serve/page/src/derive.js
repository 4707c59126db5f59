/** An answer derived again: the recorded request once more, beside other requests, compared token by token. */
import { body, generate } from "./generate.js";

const BESIDE = 2;

/** The settings that decide an answer's bits, as its record has them. */
function recorded(node) {
  if (!node.record) return { max_tokens: node.tokens.length };
  const { stop_tokens: _, ...draws } = node.record.settings;
  const found = { ...draws, stop: node.record.stop ?? [] };
  if (typeof node.record.thinking === "boolean") found.thinking = node.record.thinking;
  return found;
}

/** Whether an answer can be derived again: it has tokens, and the settings it was asked with. */
export const derivable = (node) => Boolean(node.asked && (node.record?.answer.length || node.tokens?.length));

/**
 * Derive the answer with this index again.
 *
 * Requests with other seeds are answered beside it, to show that they change nothing. Gives `{ same, tokens, beside }`,
 * or `{ same: false, at, what, tokens }`, and notes what differs about the server. An answer without details of its
 * tokens gets them here.
 */
export async function derive(conversation, index, signal, changed) {
  const node = conversation.nodes[index];
  const request = body(conversation, index, recorded(node));
  const again = {};
  const derived = generate(conversation.kind, request, again, signal, () => changed(again.tokens.length));
  const others = new AbortController();
  const beside = new Set();
  for (let each = 1; each <= BESIDE; each++) {
    const seed = (request.seed + each) % Number.MAX_SAFE_INTEGER;
    const sibling = {};
    const count = () => sibling.tokens.length && beside.add(each);
    const other = { ...request, seed, record: false, details: false };
    generate(conversation.kind, other, sibling, others.signal, count).catch(() => {}); // a busy server refuses these
  }
  try {
    await derived;
  } finally {
    others.abort();
  }
  if (again.finish === "stopped") return null;
  const found = { ...compare(node, again), beside: beside.size, when: Date.now() };
  if (node.fingerprint && node.fingerprint !== again.fingerprint) {
    found.note = `The server has changed: ${again.fingerprint} instead of ${node.fingerprint}.`;
  }
  if (node.record && String(node.record.prompt) !== String(again.record.prompt)) {
    found.note = "The prompt has other tokens than it had.";
  }
  if (found.same && !node.tokens) node.tokens = again.tokens;
  if (found.same && !node.record) node.record = again.record;
  return found;
}

/** Tokens and every bit of their log-probabilities, old against new. */
export function compare(old, again) {
  const before = marks(old);
  const after = marks(again);
  const cut = !old.record || ["aborted", "deadline"].includes(old.record.finish);
  const length = cut ? before.length : Math.max(before.length, after.length);
  for (let at = 0; at < length; at++) {
    const [a, b] = [before[at], after[at]];
    if (!a || !b)
      return {
        same: false,
        at,
        tokens: before.length,
        what: a ? "the new answer ends here" : "the new answer goes on",
      };
    if (a.id !== b.id) {
      const [was, now] = [old, again].map((each) =>
        JSON.stringify(each.tokens?.[at]?.text ?? `token ${marks(each)[at].id}`),
      );
      return { same: false, at, tokens: before.length, what: `${now} instead of ${was}` };
    }
    const exact = old.record ? a.hex === b.hex : Object.is(a.logprob, b.logprob);
    if (!exact) return { same: false, at, tokens: before.length, what: "another log-probability" };
  }
  return { same: true, tokens: length };
}

function marks(node) {
  if (!node.record) return node.tokens.map(({ id, logprob }) => ({ id, logprob }));
  return node.record.answer.map((id, at) => ({
    id,
    hex: node.record.logprobs[at],
    logprob: node.tokens?.[at]?.logprob,
  }));
}
