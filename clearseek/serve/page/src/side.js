/** The list of conversations. */
import { all, begin, forget, keep, newId, read } from "./conversation.js";
import { byId, download, make, notice } from "./dom.js";

const LARGEST_FILE = 64 << 20;

/** Connect the list's buttons. */
export function connect(app) {
  byId("new").addEventListener("click", () => app.open(begin(app.mode)));
  byId("export").addEventListener("click", () => {
    const name = app.conversation.title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40) || "conversation";
    download(`${name}.json`, JSON.stringify(app.conversation, null, 1) + "\n");
  });
  byId("import").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", async () => {
    const [file] = byId("file").files;
    byId("file").value = "";
    if (!file) return;
    try {
      if (file.size > LARGEST_FILE) throw new Error("the file is larger than 64 MB");
      const found = read(JSON.parse(await file.text()));
      if (all().some((each) => each.id === found.id)) found.id = newId();
      if (!keep(found)) notice("There is no room in this browser to keep the conversation.");
      app.open(found);
    } catch (error) {
      notice(`${file.name} was not imported: ${error.message}`);
    }
  });
}

/** Show the list, with the open conversation marked. */
export function show(app) {
  const items = all().map((each) => {
    const open = make(
      "button.entry",
      { type: "button", onclick: () => app.open(each), title: each.title },
      each.title || "Untitled",
    );
    if (each.id === app.conversation.id) open.setAttribute("aria-current", "true");
    const away = make(
      "button.quiet",
      { type: "button", "aria-label": `Delete ${each.title || "Untitled"}`, onclick: () => remove(app, each) },
      "×",
    );
    return make("li", {}, open, away);
  });
  byId("list").replaceChildren(...items);
  byId("empty").hidden = items.length > 0;
}

function remove(app, conversation) {
  forget(conversation);
  if (conversation.id === app.conversation.id) app.open(begin(app.mode));
  else show(app);
  notice("The conversation was deleted.", "Undo", () => (keep(conversation), show(app)));
}
