/** One answer on the page: its thinking, its text, what can be done with it. */
import { announce, copy, download, make } from "./dom.js";
import { derivable, derive } from "./derive.js";
import { show } from "./markdown.js";
import { schema } from "./settings.js";
import { TokenView } from "./tokens.js";

const ENDS = { length: "cut at the limit", stopped: "stopped", tool_calls: "calls a tool" };

/** A button of an answer. */
const action = (words, act) => make("button.quiet", { type: "button", onclick: act }, words);

/**
 * The view of an answer. `acts` has `retry`, `keep`, `architecture`, and `branches`, which gives the switch between
 * siblings or null.
 */
export class AnswerView {
  constructor(conversation, index, acts) {
    Object.assign(this, {
      conversation,
      index,
      acts,
      node: conversation.nodes[index],
      view: null,
      busy: false,
      due: 0,
    });
    this.text = make("div.text");
    this.thought = make("div.text.thought");
    this.summary = make("summary", {}, "Thinking");
    this.thinking = make("details.thinking", { hidden: true }, this.summary, this.thought);
    this.error = make("p.error", { role: "alert", hidden: true });
    this.stats = make("span.stats");
    this.place = make("div", { hidden: true });
    this.verdict = make("p.verdict", { hidden: true });
    this.buttons = {
      copy: action("Copy", () => copy(this.node.content, this.buttons.copy)),
      retry: action("Retry", () => acts.retry(index)),
      tokens: action("Tokens", () => this.toggle()),
      derive: action("Derive again", () => this.derive()),
      save: action("Save record", () => this.save()),
    };
    this.buttons.tokens.setAttribute("aria-expanded", "false");
    this.branches = make("span");
    this.bar = make("div.actions", {}, this.branches, ...Object.values(this.buttons), this.stats);
    const whole = conversation.kind === "chat";
    this.element = make(
      "article.answer",
      { "aria-label": "Answer", tabIndex: -1 },
      whole ? this.thinking : null,
      whole ? this.text : null,
      this.error,
      this.bar,
      this.verdict,
      this.place,
    );
    this.finish(false);
  }

  /** Show what has come; not more often than the page can bear. */
  update() {
    if (!this.busy) {
      this.busy = true;
      this.element.setAttribute("aria-busy", "true");
      this.show(); // at once: nothing of an ended answer may be seen, or pressed, while this one begins
    }
    if (this.frame) return;
    this.frame = setTimeout(() => {
      this.frame = 0;
      if (!this.busy || !this.element.isConnected) return;
      const began = performance.now();
      this.show();
      this.due = Math.max(16, 4 * (performance.now() - began));
    }, this.due);
  }

  /** Show the ended answer, and tell its text to those who listen. */
  finish(told = true) {
    this.busy = false;
    this.element.removeAttribute("aria-busy");
    this.show();
    if (told) announce(this.node.error ? `Error: ${this.node.error}` : `Answer: ${this.node.content.slice(0, 2000)}`);
  }

  show() {
    const { node } = this;
    this.thinking.hidden = !node.reasoning;
    if (node.reasoning) {
      const still = this.busy && !node.content;
      this.summary.textContent = still ? "Thinking …" : "Thinking";
      show(this.thought, node.reasoning);
    }
    show(this.text, asText(node));
    this.text.classList.toggle("waits", this.busy && !node.content);
    this.error.hidden = !node.error;
    this.error.textContent = node.error ?? "";
    this.stats.textContent = this.busy ? "" : stats(node);
    this.bar.classList.toggle("hidden", this.busy);
    this.buttons.save.hidden = !node.record;
    this.buttons.derive.hidden = !derivable(node);
    this.buttons.tokens.hidden = !node.tokens?.length && !derivable(node);
    this.branches.replaceChildren(this.acts.branches(this.index) ?? "");
    this.view?.update();
    if (node.derived && !this.deriving) this.conclude(node.derived);
  }

  /** Open or close the view of tokens; tokens that were not kept are derived again. */
  async toggle(open = !this.view) {
    if (open === Boolean(this.view)) return;
    if (open && !this.node.tokens?.length) await this.derive();
    this.view = open && this.node.tokens?.length ? new TokenView(this.node, this.acts.architecture()) : null;
    this.place.replaceChildren(this.view?.element ?? "");
    this.place.hidden = !this.view;
    this.buttons.tokens.setAttribute("aria-expanded", String(Boolean(this.view)));
    if (this.view && this.node.derived?.same === false) this.view.mark(this.node.derived.at);
  }

  /** Derive the answer again, and say what came of it. */
  async derive() {
    if (this.deriving) return this.deriving.abort();
    this.deriving = new AbortController();
    this.buttons.derive.textContent = "Stop";
    this.tell("", "Deriving again …");
    const total = this.node.record?.answer.length ?? this.node.tokens.length;
    try {
      const step = (count) => this.tell("", `Deriving again: ${count} of ${total} tokens`);
      const found = await derive(this.conversation, this.index, this.deriving.signal, step);
      if (found) this.node.derived = found;
      this.acts.keep(this.conversation);
    } catch (error) {
      this.tell("bad", `Not derived: ${error.message}`);
      return;
    } finally {
      this.deriving = null;
      this.buttons.derive.textContent = "Derive again";
      this.buttons.save.hidden = !this.node.record;
    }
    if (!this.node.derived) return void (this.verdict.hidden = true);
    this.conclude(this.node.derived);
    announce(this.verdict.textContent);
    if (!this.node.derived.same && !this.view) await this.toggle(true);
    this.view?.mark(this.node.derived.same ? null : this.node.derived.at);
  }

  conclude({ same, tokens, at, what, beside, note }) {
    const others = beside ? ` Beside ${beside} other answers.` : "";
    const words = same
      ? `The same: ${tokens} tokens, every bit.${others}`
      : `Not the same: from token ${at + 1} of ${tokens} on, ${what}.${others}`;
    this.tell(same ? "good" : "bad", note ? `${words} ${note}` : words);
  }

  tell(kind, words) {
    this.verdict.hidden = false;
    this.verdict.className = `verdict ${kind}`;
    if (this.verdict.textContent !== words) this.verdict.textContent = words;
  }

  save() {
    download(`answer-${this.node.record.settings.seed}.json`, JSON.stringify(this.node.record, null, 1) + "\n");
  }
}

/** The answer's markdown; an answer in a schema's form is code. */
function asText(node) {
  if (!node.asked?.response_format) return node.content;
  try {
    return "```json\n" + JSON.stringify(schema(node.content), null, 2) + "\n```";
  } catch {
    return "```json\n" + node.content + "\n```";
  }
}

function stats(node) {
  const count = node.record?.answer.length ?? node.tokens?.length ?? 0;
  const found = count ? [`${count} tokens`] : [];
  if (count > 1 && node.seconds > 0) found.push(`${((count - 1) / node.seconds).toFixed(1)} a second`);
  if (node.asked?.seed !== undefined) found.push(`seed ${node.asked.seed}`);
  if (ENDS[node.finish]) found.push(ENDS[node.finish]);
  return found.join(" · ");
}
