/** One answer: the request for it, the tokens as they come, and the same request once more. */
import { stream } from "./api.js";
import { ancestry, children } from "./conversation.js";
import { numbers, schema, settings } from "./settings.js";

const ALTERNATIVES = 5;
const PATHS = { chat: "/v1/chat/completions", text: "/v1/completions" };

/** The settings of a request that the next answer below a message will have. */
export function asked(conversation, parent) {
  const found = { ...numbers(children(conversation, parent).length), thinking: settings.thinking };
  const form = conversation.kind === "chat" ? schema() : null;
  if (form) found.response_format = { type: "json_schema", json_schema: { name: "answer", schema: form } };
  if (conversation.kind === "text") delete found.thinking;
  return found;
}

/** The whole request for the answer with this index. */
export function body(conversation, index, changes = {}) {
  const node = conversation.nodes[index];
  const shared = { ...node.asked, ...changes, model: node.model, details: true, record: true };
  if (conversation.kind === "text") {
    return {
      ...shared,
      prompt: conversation.nodes[node.parent].content,
      logprobs: ALTERNATIVES,
      stream_options: { include_usage: true },
    };
  }
  const messages = ancestry(conversation, node.parent).map((at) => {
    const { role, content } = conversation.nodes[at];
    return { role, content };
  });
  if (node.system) messages.unshift({ role: "system", content: node.system });
  return { ...shared, messages, logprobs: true, top_logprobs: ALTERNATIVES, stream_options: { include_usage: true } };
}

/** Fill an answer as it comes. `changed` is called after each piece; an abort leaves what there is. */
export async function generate(kind, request, node, signal, changed) {
  const began = performance.now();
  let first = null;
  Object.assign(node, { content: "", reasoning: "", tokens: [] });
  try {
    await stream(PATHS[kind], request, signal, (value) => {
      node.fingerprint ??= value.system_fingerprint;
      if (value.usage) {
        node.read = value.usage.prompt_tokens;
        node.reused = value.usage.prompt_tokens_details?.cached_tokens ?? 0;
      }
      const choice = value.choices[0];
      if (!choice) return;
      const now = performance.now();
      const tokens = kind === "chat" ? chatTokens(choice) : textTokens(choice);
      if (tokens.length && first === null) node.wait = ((first = now) - began) / 1000;
      node.tokens.push(...tokens);
      node.content += (kind === "chat" ? choice.delta.content : choice.text) ?? "";
      node.reasoning += choice.delta?.reasoning_content ?? choice.delta?.reasoning ?? "";
      for (const call of choice.delta?.tool_calls ?? [])
        node.content += `${call.function.name ?? ""}${call.function.arguments ?? ""}`;
      if (first !== null) node.seconds = (now - first) / 1000;
      if (choice.record) node.record = choice.record;
      if (choice.finish_reason) node.finish = choice.finish_reason;
      changed();
    });
  } catch (error) {
    if (error.name === "AbortError") node.finish = "stopped";
    else throw error;
  }
}

function chatTokens(choice) {
  return (choice.logprobs?.content ?? []).map((each, index) => ({
    text: shown(each),
    logprob: each.logprob,
    others: each.top_logprobs.map((other) => [shown(other), other.logprob]),
    ...details(choice, index),
  }));
}

/** A token as text; bytes that are no characters by themselves as ⟨E2 96⟩. */
function shown({ token, bytes }) {
  if (!token.includes("\ufffd") || !bytes) return token;
  return `⟨${bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ")}⟩`;
}

/** The same of a token as a completion names it: its text, or its bytes as bytes:\xe2\x96. */
function readable(name) {
  if (!/^bytes:(\\x[0-9a-f]{2})+$/.test(name)) return name;
  return `⟨${name.slice(8).toUpperCase().split("\\X").join(" ")}⟩`;
}

function textTokens(choice) {
  const told = choice.logprobs;
  return (told?.tokens ?? []).map((text, index) => ({
    text: readable(text),
    logprob: told.token_logprobs[index],
    others: Object.entries(told.top_logprobs[index] ?? {})
      .map(([other, logprob]) => [readable(other), logprob])
      .sort((a, b) => b[1] - a[1]),
    ...details(choice, index),
  }));
}

function details(choice, index) {
  const told = choice.details?.[index] ?? {};
  const found = { id: told.token, experts: told.experts ?? [] };
  if (told.drafted) found.draft = told.drafted.token === told.token ? true : told.drafted.text;
  return found;
}
