/** Elements of the page, built without any HTML text. */

/**
 * An element: `make("button.quiet", { title: "…", onclick: f }, "text", child)`.
 * Properties with a hyphen, and `role`, become attributes; `null` children are left out.
 */
export function make(kind, given = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null) continue;
    if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** The element with an id. */
export const byId = (id) => document.getElementById(id);

/** Tell people who listen instead of look. */
export function announce(text) {
  const status = byId("status");
  status.textContent = "";
  requestAnimationFrame(() => (status.textContent = text));
}

/** Show a sentence at the edge of the page for some seconds, with an action where one is given. */
export function notice(text, action = null, act = null) {
  const button = action && make("button", { type: "button", onclick: () => (act(), box.remove()) }, action);
  const box = make("div.notice", { role: "alert" }, text, button);
  byId("notices").replaceChildren(box);
  setTimeout(() => box.remove(), action ? 12000 : 8000);
}

/** Offer a text as a file. */
export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** Put a text on the clipboard, and say so on the button that was pressed. */
export async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = copyOldWay(text) ? "Copied" : "Not allowed"; // without https there is no clipboard
    button.focus();
  }
  announce(button.textContent);
  setTimeout(() => (button.textContent = before), 1500);
}

function copyOldWay(text) {
  const area = make("textarea.unseen", { value: text });
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

/** Make a text area as high as its text; CSS limits it. */
export function fit(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}
