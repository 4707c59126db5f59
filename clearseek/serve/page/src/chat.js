/** The page of a conversation: questions, answers, the field below them. */
import { AnswerView } from "./answer.js";
import { add, children, path } from "./conversation.js";
import { byId, fit, make } from "./dom.js";
import { keep, settings } from "./settings.js";

const action = (words, act) => make("button.quiet", { type: "button", onclick: act }, words);
const coarse = matchMedia("(pointer: coarse)");

/** The chat's view. `app` runs answers, and keeps conversations. */
export class Chat {
  constructor(app) {
    this.app = app;
    this.log = byId("log");
    this.input = byId("input");
    this.thinking = byId("think");
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (app.running) app.stop();
      else this.send();
    });
    this.input.addEventListener("input", () => fit(this.input));
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || coarse.matches) return;
      event.preventDefault();
      if (!app.running) this.send();
    });
    this.thinking.addEventListener("click", () => {
      settings.thinking = !settings.thinking;
      keep();
      this.settle();
    });
  }

  /** Show the conversation. */
  show() {
    const { conversation } = this.app;
    this.settle();
    const shown = path(conversation).map((index) => this.message(index));
    this.log.replaceChildren(...(shown.length ? shown : [this.welcome()]));
    this.end();
  }

  /** Bring the buttons in line with the state. */
  settle() {
    const running = Boolean(this.app.running);
    byId("send").textContent = running ? "Stop" : "Send";
    byId("send").classList.toggle("stop", running);
    this.thinking.setAttribute("aria-pressed", String(settings.thinking));
    const used = [settings.system.trim() && "system text", settings.schema.trim() && "JSON schema"].filter(Boolean);
    byId("in-use").textContent = used.length ? `with ${used.join(" and ")}` : "";
    this.input.disabled = !this.app.model;
  }

  welcome() {
    const { model } = this.app;
    const warning =
      model && !model.chat
        ? "This model was not trained to chat: it may continue your words rather than answer them."
        : null;
    return make(
      "div.welcome",
      {},
      make("h2", {}, model ? model.id : "ClearSeek"),
      warning && make("p.warning", {}, warning),
      make("p", {}, "Every answer here can be derived again, bit for bit, from the model, the words and a seed."),
      make(
        "p.hint",
        {},
        "Tokens shows how likely each token was, what else was likely, and which experts worked on it.",
      ),
    );
  }

  message(index) {
    const node = this.app.conversation.nodes[index];
    return node.role === "user" ? this.question(index, node) : this.answer(index).element;
  }

  question(index, node) {
    const bar = make(
      "div.actions",
      {},
      this.branches(index) ?? "",
      action("Edit", () => this.edit(index, element)),
    );
    const element = make(
      "article.question",
      { "aria-label": "You", tabIndex: -1 },
      make("p.said", {}, node.content),
      bar,
    );
    return element;
  }

  answer(index) {
    return new AnswerView(this.app.conversation, index, {
      retry: (at) => this.app.running || this.ask(this.app.conversation.nodes[at].parent),
      keep: (conversation) => this.app.keep(conversation),
      architecture: () => this.app.model ?? {},
      branches: (at) => this.branches(at),
    });
  }

  /** The switch between a message and its siblings, or null. */
  branches(index) {
    const { conversation } = this.app;
    const siblings = children(conversation, conversation.nodes[index].parent);
    if (siblings.length < 2) return null;
    const place = siblings.indexOf(index);
    const button = (words, text, by) =>
      make(
        "button.quiet",
        {
          type: "button",
          "aria-label": words,
          disabled: siblings[place + by] === undefined,
          onclick: () => this.app.turn(index, by),
        },
        text,
      );
    const group = make(
      "span.branches",
      { role: "group", "aria-label": `Branch ${place + 1} of ${siblings.length}` },
      button("Earlier branch", "‹", -1),
      make("span", {}, `${place + 1}/${siblings.length}`),
      button("Later branch", "›", 1),
    );
    group.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by && this.app.turn(index, by)) event.preventDefault();
    });
    return group;
  }

  /** Put the focus on the branches of the message that took another's place. */
  focusBranch(depth) {
    const group = this.log.children[depth]?.querySelector(".branches");
    group?.querySelector("button:not([disabled])")?.focus();
  }

  edit(index, element) {
    if (this.app.running) return;
    const node = this.app.conversation.nodes[index];
    const area = make("textarea", { value: node.content, "aria-label": "Edit the message" });
    const cancel = () => element.replaceWith(this.question(index, node));
    const save = () => area.value.trim() && this.ask(add(this.app.conversation, node.parent, "user", area.value));
    area.addEventListener("input", () => fit(area));
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") (event.stopPropagation(), cancel());
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !coarse.matches)
        (event.preventDefault(), save());
    });
    element.replaceChildren(area, make("div.actions", {}, action("Send", save), action("Cancel", cancel)));
    fit(area);
    area.focus();
  }

  send() {
    const text = this.input.value;
    if (!text.trim() || !this.app.model) return;
    this.input.value = "";
    fit(this.input);
    this.ask(add(this.app.conversation, path(this.app.conversation).at(-1) ?? -1, "user", text));
  }

  /** Have the message with this index answered. */
  ask(parent) {
    const index = this.app.prepare(parent);
    if (index === null) return;
    const { nodes } = this.app.conversation;
    const before = path(this.app.conversation).slice(0, -1);
    this.log.replaceChildren(...before.map((at) => this.message(at)));
    const view = this.answer(index);
    this.log.append(view.element);
    this.end();
    this.app.run(index, nodes[index], view);
  }

  /** Scroll to the end. */
  end() {
    this.log.scrollTop = this.log.scrollHeight;
  }

  /** Whether the end is in sight, so that new text keeps it there. */
  get atEnd() {
    return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 60;
  }
}
