/** The page's state, and what joins its parts. */
import { Failure, model as askModel } from "./api.js";
import { Chat } from "./chat.js";
import { Complete } from "./complete.js";
import * as conversations from "./conversation.js";
import * as dialog from "./dialog.js";
import { announce, byId, make, notice } from "./dom.js";
import { asked, body, generate } from "./generate.js";
import { keep as keepSettings, settings } from "./settings.js";
import * as side from "./side.js";

const LAST = "clearseek.last";

class App {
  constructor() {
    this.model = null;
    this.running = null;
    this.written = null; // the answer that is being written, and its conversation, which may have been left
    this.started = settings.mode;
    this.conversation = conversations.begin("chat");
    this.chat = new Chat(this);
    this.complete = new Complete(this);
  }

  /** "chat" or "text": as the user chose, or as the model was trained. */
  get mode() {
    return settings.mode || (this.model && !this.model.chat ? "text" : "chat");
  }

  get view() {
    return this.conversation.kind === "text" ? this.complete : this.chat;
  }

  /** Ask the server for its model. */
  async connect() {
    const told = byId("model");
    try {
      this.model = await askModel();
      told.textContent = this.model.id;
      told.title = `weights ${this.model.weights_sha256}, ${this.model.system_fingerprint}`;
      document.title = `${this.model.id} · ClearSeek`;
      byId("trouble").hidden = true;
    } catch (error) {
      this.model = null;
      told.textContent = "";
      this.trouble(error);
    }
  }

  trouble(error) {
    const wants = error instanceof Failure && error.status === 401;
    const again = make("button", { type: "button" }, wants ? "Enter the key" : "Try again");
    again.addEventListener("click", () =>
      wants ? (byId("settings").showModal(), byId("set-key").focus()) : this.start(),
    );
    byId("trouble").replaceChildren(wants ? "This server wants an API key. " : `${error.message} `, again);
    byId("trouble").hidden = false;
  }

  /** Follow a change of settings. */
  changed(newKey) {
    if (newKey || !this.model || this.started !== settings.mode) this.start();
    else this.view.settle();
  }

  /** Begin, or begin again after the key or the mode has changed. */
  async start() {
    await this.connect();
    if (this.running) return this.view.settle();
    const kept = conversations.all();
    const last = kept.find(
      (each) => each.id === (this.conversation.nodes.length ? this.conversation.id : sessionStorage.getItem(LAST)),
    );
    const fits = last && (!settings.mode || last.kind === settings.mode || this.started === settings.mode);
    this.started = settings.mode;
    this.open(fits ? last : conversations.begin(this.mode), false);
  }

  /** Show a conversation. */
  open(conversation, moves = true) {
    this.stop();
    this.conversation = conversation;
    sessionStorage.setItem(LAST, conversation.id);
    document.body.dataset.kind = conversation.kind;
    for (const place of ["log", "added"]) byId(place).replaceChildren();
    side.show(this);
    this.view.show();
    if (!moves) return;
    if (narrow.matches) fold(true);
    byId(conversation.kind === "text" ? "whole" : "input").focus();
  }

  /** Write a conversation down. */
  keep(conversation = this.conversation) {
    if (conversations.keep(conversation)) return;
    notice("There is no room in this browser to keep this conversation: export it, and delete others.");
  }

  /** Show a sibling of a message. Whether there is one. */
  turn(index, by) {
    if (this.running || !conversations.turn(this.conversation, index, by)) return false;
    this.keep();
    const depth = conversations.ancestry(this.conversation, index).length - 1;
    this.view.show();
    this.view.focusBranch(depth);
    return true;
  }

  /** Add an empty answer below a message. Gives its index, or null where an answer is being written. */
  prepare(parent) {
    if (this.running) return null;
    const given = asked(this.conversation, parent);
    const index = this.place(parent);
    Object.assign(this.conversation.nodes[index], { asked: given, model: this.model.id });
    if (settings.system.trim() && this.conversation.kind === "chat")
      this.conversation.nodes[index].system = settings.system;
    return index;
  }

  /** Index of a new answer, in the place of one that failed where there is such. */
  place(parent) {
    const { nodes, chosen } = this.conversation;
    const failed = conversations
      .children(this.conversation, parent)
      .find((at) => nodes[at].error && !nodes[at].content);
    if (failed === undefined) return conversations.add(this.conversation, parent, "assistant", "");
    nodes[failed] = { parent, role: "assistant", content: "" };
    return (chosen[parent] = failed);
  }

  /** Have an answer written, shown and kept. */
  async run(index, node, view) {
    const { conversation } = this;
    this.running = new AbortController();
    this.written = { conversation, node };
    this.view.settle();
    announce("Answering");
    try {
      view.update();
      await generate(conversation.kind, body(conversation, index), node, this.running.signal, () => {
        const follow = this.chat.atEnd;
        view.update();
        if (follow) setTimeout(() => this.chat.end(), 20);
      });
    } catch (error) {
      node.error = error.message;
      if (error.status === 401) this.trouble(error);
    }
    this.running = this.written = null;
    const follow = this.chat.atEnd;
    if (this.conversation === conversation) view.finish(); // it may have been left
    this.keep(conversation);
    side.show(this);
    this.view.settle();
    if (follow) this.chat.end();
  }

  stop() {
    this.running?.abort();
  }
}

const narrow = matchMedia("(max-width: 60rem)");

function fold(folded) {
  document.body.classList.toggle("folded", folded);
  byId("menu").setAttribute("aria-expanded", String(!folded));
  if (!narrow.matches) ((settings.side = !folded), keepSettings());
}

function listen(app) {
  byId("menu").addEventListener("click", () => {
    fold(!document.body.classList.contains("folded"));
    if (narrow.matches && !document.body.classList.contains("folded")) byId("new").focus();
  });
  byId("shade").addEventListener("click", () => fold(true));
  document.addEventListener("keydown", (event) => {
    const writing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName ?? "");
    if (event.key === "Escape" && !byId("settings").open) {
      if (app.running) app.stop();
      else if (narrow.matches) (fold(true), byId("menu").focus());
    } else if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      byId(app.conversation.kind === "text" ? "whole" : "input").focus();
    }
  });
  window.addEventListener("pagehide", () => {
    if (!app.written) return;
    app.written.node.finish = "stopped";
    app.keep(app.written.conversation);
  });
}

const app = new App();
dialog.connect((newKey) => app.changed(newKey));
side.connect(app);
listen(app);
fold(narrow.matches || settings.side === false);
app.start();
