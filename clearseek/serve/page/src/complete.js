/** The page of a base model: one text, and what the model adds to it. */
import { AnswerView } from "./answer.js";
import { add, children, path } from "./conversation.js";
import { byId, fit, make } from "./dom.js";

/** The view of a text that is continued. `app` runs answers, and keeps conversations. */
export class Complete {
  constructor(app) {
    this.app = app;
    this.area = byId("whole");
    byId("writer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (app.running) app.stop();
      else this.go();
    });
    this.area.addEventListener("input", () => fit(this.area));
    this.area.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || app.running) return;
      event.preventDefault();
      this.go();
    });
    byId("back").addEventListener("click", () => this.back());
  }

  /** Index of the shown answer, or null. */
  get index() {
    const last = path(this.app.conversation).at(-1);
    return last !== undefined && this.app.conversation.nodes[last].role === "assistant" ? last : null;
  }

  /** Show the conversation's last text. */
  show() {
    const { index } = this;
    const { nodes } = this.app.conversation;
    this.area.value =
      index === null ? (nodes[path(this.app.conversation).at(-1)]?.content ?? "") : nodes[nodes[index].parent].content + nodes[index].content;
    fit(this.area);
    const view = index === null ? null : this.answer(index);
    byId("added").replaceChildren(view?.element ?? "");
    view?.toggle(true);
    this.settle();
  }

  /** Bring the buttons and words in line with the state. */
  settle() {
    const running = Boolean(this.app.running);
    const { model } = this.app;
    byId("go").textContent = running ? "Stop" : "Continue";
    byId("go").classList.toggle("stop", running);
    this.area.readOnly = running;
    this.area.disabled = !model;
    byId("back").hidden = running || this.index === null;
    byId("about").replaceChildren(
      ...(model && !model.chat
        ? [
            make("strong", {}, `${model.id} is a base model. `),
            "It goes on with a text in the manner of the texts it was trained on. ",
            "It was not trained to answer questions or to follow instructions.",
          ]
        : ["The model goes on with this text as it stands, without the form of a conversation."]),
    );
  }

  answer(index) {
    return new AnswerView(this.app.conversation, index, {
      retry: (at) => this.app.running || this.ask(this.app.conversation.nodes[at].parent),
      keep: (conversation) => this.app.keep(conversation),
      architecture: () => this.app.model ?? {},
      branches: (at) => this.app.chat.branches(at),
    });
  }

  focusBranch() {
    byId("added").querySelector(".branches button:not([disabled])")?.focus();
  }

  /** Take the last addition away; it stays among the branches. */
  back() {
    const { conversation } = this.app;
    const { nodes } = conversation;
    const { content: text, parent: above } = nodes[nodes[this.index].parent];
    const bare = children(conversation, above).find(
      (at) => nodes[at].content === text && !children(conversation, at).length,
    );
    conversation.chosen[above] = bare ?? add(conversation, above, "user", text);
    this.app.keep();
    this.area.value = text;
    byId("added").replaceChildren();
    byId("back").hidden = true;
    this.area.focus();
  }

  go() {
    const text = this.area.value;
    if (!text || !this.app.model) return;
    const { conversation } = this.app;
    const above = this.index ?? -1;
    const same = children(conversation, above).find((at) => conversation.nodes[at].content === text);
    if (same !== undefined) conversation.chosen[above] = same;
    this.ask(same ?? add(conversation, above, "user", text));
  }

  /** Have the text with this index continued. */
  async ask(parent) {
    const index = this.app.prepare(parent);
    if (index === null) return;
    const { nodes } = this.app.conversation;
    const node = nodes[index];
    this.area.value = nodes[parent].content;
    node.tokens = [];
    const inner = this.answer(index);
    byId("added").replaceChildren(inner.element);
    const view = {
      update: () => {
        if (!inner.view && node.tokens.length) inner.toggle(true);
        this.area.value = nodes[parent].content + node.content;
        fit(this.area);
        this.area.scrollTop = this.area.scrollHeight;
        inner.update();
      },
      finish: () => inner.finish(),
    };
    await this.app.run(index, node, view);
    this.settle();
  }
}
