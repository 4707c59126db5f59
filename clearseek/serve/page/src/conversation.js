/**
 * Conversations: trees of messages, kept in this browser.
 *
 * A conversation's `nodes` are a list in which each names its parent, which stands before it; -1 is the root.
 * `chosen[parent]` is the child that is shown. An edit or a retry adds a sibling, so nothing is ever lost.
 * In a conversation of kind "chat", questions and answers alternate; in one of kind "text", a node of role "user" is
 * the whole text that was continued, and the node below it is what the model added.
 */

export const FORM = "clearseek-conversation-1";
const PREFIX = "clearseek.conversation.";
const LARGEST_NODE = 1 << 20;

/** A random name; without https a browser has no crypto.randomUUID. */
export const newId = () =>
  Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("");

/** A new conversation. */
export function begin(kind) {
  return { form: FORM, id: newId(), kind, title: "", changed: Date.now(), nodes: [], chosen: {} };
}

/** Add a message below another; it is shown from now on. Gives its index. */
export function add(conversation, parent, role, content) {
  conversation.nodes.push({ parent, role, content });
  const index = conversation.nodes.length - 1;
  conversation.chosen[parent] = index;
  conversation.changed = Date.now();
  if (!conversation.title && role === "user") conversation.title = content.trim().replace(/\s+/g, " ").slice(0, 80);
  return index;
}

/** Indices of the messages below another. */
export function children(conversation, parent) {
  return conversation.nodes.flatMap((node, index) => (node.parent === parent ? [index] : []));
}

/** Indices of the messages that are shown, from the first to the last. */
export function path(conversation) {
  const found = [];
  for (let at = -1; ; found.push(at)) {
    const below = children(conversation, at);
    if (!below.length) return found;
    at = below.includes(conversation.chosen[at]) ? conversation.chosen[at] : below.at(-1);
  }
}

/** Indices from the first message down to this one. */
export function ancestry(conversation, index) {
  const found = [];
  for (let at = index; at !== -1; at = conversation.nodes[at].parent) found.unshift(at);
  return found;
}

/** Show the sibling `by` places further. Whether there is one. */
export function turn(conversation, index, by) {
  const siblings = children(conversation, conversation.nodes[index].parent);
  const next = siblings[siblings.indexOf(index) + by];
  if (next === undefined) return false;
  conversation.chosen[conversation.nodes[index].parent] = next;
  return true;
}

/** All kept conversations, the latest first. */
export function all() {
  const found = [];
  for (const place of Object.keys(localStorage)) {
    if (!place.startsWith(PREFIX)) continue;
    try {
      found.push(read(JSON.parse(localStorage.getItem(place))));
    } catch {
      // not written by this page: left as it is
    }
  }
  return found.sort((a, b) => b.changed - a.changed);
}

/**
 * Keep a conversation. Where the browser's room ends, the tokens' details of other conversations are dropped, the
 * oldest first, then this one's: answers can be derived again, details and all. Whether there was room.
 */
export function keep(conversation, others = all()) {
  const write = (each) => localStorage.setItem(PREFIX + each.id, JSON.stringify(each));
  const slim = (each) => ({ ...each, nodes: each.nodes.map(({ tokens: _, ...node }) => node) });
  const oldest = others.filter((each) => each.id !== conversation.id).sort((a, b) => a.changed - b.changed);
  const ways = [() => write(conversation)];
  for (const other of oldest) ways.push(() => (write(slim(other)), write(conversation)));
  ways.push(() => write(slim(conversation)));
  return ways.some((way) => {
    try {
      way();
      return true;
    } catch {
      return false;
    }
  });
}

/** Forget a conversation. */
export function forget(conversation) {
  localStorage.removeItem(PREFIX + conversation.id);
}

/** A conversation from JSON values. Throws Error with what is wrong with it. */
export function read(value) {
  if (value?.form !== FORM) throw new Error(`the file is no conversation: its "form" is not "${FORM}"`);
  if (!Array.isArray(value.nodes)) throw new Error('"nodes" is no list');
  const nodes = value.nodes.map(readNode);
  const chosen = {};
  for (const [parent, child] of Object.entries(value.chosen ?? {})) {
    if (nodes[child]?.parent === Number(parent)) chosen[parent] = child;
  }
  return {
    form: FORM,
    id: typeof value.id === "string" && /^[\w-]{1,64}$/.test(value.id) ? value.id : newId(),
    kind: value.kind === "text" ? "text" : "chat",
    title: String(value.title ?? "").slice(0, 80),
    changed: Number.isFinite(value.changed) ? value.changed : Date.now(),
    nodes,
    chosen,
  };
}

function readNode(node, index) {
  const wrong = (what) => new Error(`message ${index}: ${what}`);
  if (!Number.isInteger(node?.parent) || node.parent < -1 || node.parent >= index)
    throw wrong("parent is no earlier message");
  if (node.role !== "user" && node.role !== "assistant") throw wrong("role is neither user nor assistant");
  if (typeof node.content !== "string" || node.content.length > LARGEST_NODE)
    throw wrong("content is no text, or too long");
  const found = { parent: node.parent, role: node.role, content: node.content };
  for (const name of ["reasoning", "finish", "error", "model", "fingerprint", "system"])
    if (typeof node[name] === "string") found[name] = node[name];
  for (const name of ["seconds", "wait", "read", "reused"]) if (Number.isFinite(node[name])) found[name] = node[name];
  for (const name of ["asked", "record", "derived"])
    if (typeof node[name] === "object" && node[name] !== null) found[name] = node[name];
  if (found.record && !(Array.isArray(found.record.answer) && found.record.settings)) delete found.record;
  if (Array.isArray(node.tokens) && node.tokens.every(isToken)) found.tokens = node.tokens;
  return found;
}

const isToken = (token) =>
  typeof token?.text === "string" &&
  Array.isArray(token.others) &&
  Array.isArray(token.experts) &&
  token.others.every(Array.isArray);
