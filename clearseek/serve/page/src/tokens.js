/** The tokens of an answer: how likely each was, what else was likely, which experts worked, what had been drafted. */
import { make } from "./dom.js";

const RAREST = 10; // bits of surprise that get the full colour
const bits = (token) => -token.logprob / Math.LN2;
const percent = (logprob) => {
  const p = 100 * Math.exp(logprob);
  return `${p >= 99.95 ? "100" : p >= 0.1 ? p.toPrecision(3) : p.toExponential(1)} %`;
};
const special = (text) => /^<(?:\/?think|｜.*｜)>$/.test(text);
const quoted = (text) => (special(text) || /^⟨.*⟩$/.test(text) ? text : JSON.stringify(text));
const alike =
  (token) =>
  ([text, logprob]) =>
    text === token.text && logprob === token.logprob;

/** The view of an answer's tokens. `architecture` has the model's `experts` and `layers`. */
export class TokenView {
  constructor(node, architecture) {
    this.node = node;
    this.architecture = architecture;
    this.spans = [];
    this.at = -1;
    this.visits = null;
    this.strip = make("div.strip", { role: "listbox", tabIndex: 0, "aria-label": "Tokens of the answer" });
    this.inspector = make("div.inspector", {
      role: "region",
      "aria-label": "The chosen token",
      "aria-live": "polite",
    });
    this.summary = make("p.summary");
    this.element = make("div.tokens", {}, make("div", {}, this.strip, legend(), this.summary), this.inspector);
    this.listen();
    this.update();
  }

  listen() {
    const of = (event) => Number(event.target.closest("[data-at]")?.dataset.at ?? -1);
    this.strip.addEventListener(
      "pointerover",
      (event) => of(event) >= 0 && event.pointerType === "mouse" && this.show(of(event)),
    );
    this.strip.addEventListener("click", (event) => of(event) >= 0 && this.show(of(event)));
    this.strip.addEventListener(
      "focus",
      () => this.strip.matches(":focus-visible") && this.at < 0 && this.spans.length && this.show(0),
    );
    this.strip.addEventListener("keydown", (event) => {
      const last = this.spans.length - 1;
      const to = {
        ArrowRight: this.at + 1,
        ArrowDown: this.at + 10,
        ArrowLeft: this.at - 1,
        ArrowUp: this.at - 10,
        Home: 0,
        End: last,
      };
      if (!(event.key in to) || last < 0) return;
      event.preventDefault();
      event.stopPropagation();
      this.show(Math.max(0, Math.min(last, to[event.key])));
      this.spans[this.at].scrollIntoView({ block: "nearest" });
    });
  }

  /** Add the tokens that came since the last call. */
  update() {
    const tokens = this.node.tokens ?? [];
    for (const token of tokens.slice(this.spans.length)) this.add(token);
    const total = tokens.reduce((sum, token) => sum + bits(token), 0);
    const drafts = tokens.filter((token) => token.draft !== undefined);
    const accepted = drafts.filter((token) => token.draft === true).length;
    this.summary.textContent = [
      `${tokens.length} tokens`,
      tokens.length ? `${(total / tokens.length).toFixed(2)} bits each` : "",
      drafts.length ? `${accepted} of ${drafts.length} drafts accepted` : "",
      "probabilities before temperature and filters",
    ]
      .filter(Boolean)
      .join(" · ");
    this.visits = null;
    if (this.at < 0)
      this.inspector.replaceChildren(make("p.hint", {}, "Point at a token, tap it, or move with the arrow keys."));
  }

  add(token) {
    const at = this.spans.length;
    const shown = make("span.token", {
      role: "option",
      id: `token-${Math.random().toString(36).slice(2)}`,
      "aria-selected": "false",
    });
    shown.dataset.at = at;
    shown.setAttribute("aria-label", `${quoted(token.text)}, ${percent(token.logprob)}`);
    shown.style.setProperty("--surprise", `${Math.round((100 * Math.min(bits(token), RAREST)) / RAREST)}%`);
    if (special(token.text)) shown.classList.add("special");
    if (token.draft === true) shown.classList.add("accepted");
    else if (token.draft !== undefined) shown.classList.add("refused");
    shown.append(token.text.replace(/\t/g, "→\t").replace(/ $/, "\u00a0").replace(/\n/g, "↵\n") || "∅");
    this.spans.push(shown);
    this.strip.append(shown);
  }

  /** Mark the token from which a derivation differs, and show it. */
  mark(at) {
    for (const span of this.spans) span.classList.remove("differs");
    if (at === null || !this.spans.length) return;
    const shown = Math.min(at, this.spans.length - 1);
    this.spans[shown].classList.add("differs");
    this.show(shown);
    this.spans[shown].scrollIntoView({ block: "center" });
  }

  /** Show a token's details. */
  show(at) {
    if (at === this.at) return;
    this.spans[this.at]?.setAttribute("aria-selected", "false");
    this.at = at;
    this.spans[at].setAttribute("aria-selected", "true");
    this.strip.setAttribute("aria-activedescendant", this.spans[at].id);
    const token = this.node.tokens[at];
    const numbers = make("p.numbers", {}, `${percent(token.logprob)}, ${Math.abs(bits(token)).toFixed(2)} bits`);
    const place = make("p.place", {}, `token ${at + 1} of ${this.spans.length}, id ${token.id ?? "unknown"}`);
    this.inspector.replaceChildren(
      make("p.name", {}, make("code", {}, quoted(token.text))),
      numbers,
      place,
      alternatives(token),
      draft(token) ?? "",
      this.experts(token),
    );
  }

  experts(token) {
    const layers = token.experts;
    if (!layers?.length) return "";
    const count =
      this.architecture.experts ?? 1 + Math.max(...this.node.tokens.flatMap((each) => each.experts.flat()));
    const first = (this.architecture.layers ?? layers.length) - layers.length;
    const words = layers.map(
      (chosen, layer) => `Layer ${first + layer}: ${[...chosen].sort((a, b) => a - b).join(", ")}`,
    );
    const canvas = make("canvas.experts", { role: "img", "aria-label": `Experts. ${words.join(". ")}` });
    const rows = layers.length === 1 ? `layer ${first}` : `layers ${first} to ${first + layers.length - 1} downwards`;
    const caption = `Experts: ${rows}, ${count} across. Blue: visited here. Grey: how often in this answer.`;
    const list = make("ol.words", {}, ...words.map((each) => make("li", {}, each)));
    const numbers = make("details", {}, make("summary", {}, "In numbers"), list);
    const figure = make("figure.map", {}, canvas, make("figcaption", {}, caption, numbers));
    requestAnimationFrame(() =>
      draw(canvas, layers, (this.visits ??= visits(this.node.tokens, layers.length, count)), count),
    );
    return figure;
  }
}

/** How often each expert of each layer was visited, 0 to 1. */
function visits(tokens, layers, count) {
  const found = Array.from({ length: layers }, () => new Float32Array(count));
  for (const token of tokens)
    token.experts.forEach((chosen, layer) => chosen.forEach((expert) => found[layer] && (found[layer][expert] += 1)));
  const most = Math.max(1, ...found.map((row) => Math.max(...row)));
  return found.map((row) => row.map((value) => value / most));
}

function draw(canvas, layers, shades, count) {
  const width = canvas.clientWidth;
  const cell = width / count;
  const high = Math.max(2, Math.min(14, Math.max(cell, 160 / layers.length)));
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(high * layers.length * scale);
  canvas.style.height = `${high * layers.length}px`;
  const colours = getComputedStyle(canvas);
  const pen = canvas.getContext("2d");
  const gap = cell > 5 ? 1 : 0;
  const fill = (layer, expert, colour, alpha) => {
    pen.globalAlpha = alpha;
    pen.fillStyle = colour;
    pen.fillRect(
      expert * cell * scale,
      layer * high * scale,
      (cell - gap) * scale,
      (high - (high > 4 ? 1 : 0)) * scale,
    );
  };
  shades.forEach((row, layer) =>
    row.forEach((value, expert) => fill(layer, expert, colours.color, 0.06 + 0.4 * value)),
  );
  layers.forEach((chosen, layer) =>
    chosen.forEach((expert) => fill(layer, expert, colours.getPropertyValue("--accent").trim(), 1)),
  );
}

function alternatives(token) {
  const known = token.others.some(alike(token));
  const rows = known ? token.others : [...token.others, [token.text, token.logprob]].sort((a, b) => b[1] - a[1]);
  return make(
    "table.alternatives",
    {},
    make("caption.unseen", {}, "Likely tokens here"),
    make(
      "tbody",
      {},
      ...rows.map((row) => {
        const [text, logprob] = row;
        const bar = make("span.bar");
        bar.style.setProperty("--share", `${(100 * Math.exp(logprob)).toFixed(2)}%`);
        const here = alike(token)(row);
        return make(
          here ? "tr.here" : "tr",
          {},
          make("th", { scope: "row" }, make("code", {}, quoted(text))),
          make("td", {}, bar),
          make("td.number", {}, percent(logprob), here ? make("span.unseen", {}, " (chosen)") : null),
        );
      }),
    ),
  );
}

function draft(token) {
  if (token.draft === true) return make("p.draft", {}, "Drafted by the multi-token-prediction layer, and accepted.");
  if (token.draft !== undefined)
    return make(
      "p.draft",
      {},
      "The multi-token-prediction layer had drafted ",
      make("code", {}, quoted(token.draft)),
      ": refused.",
    );
  return null;
}

function legend() {
  return make(
    "p.legend",
    {},
    make("span", {}, "likely"),
    make("span.scale", { role: "img", "aria-label": "from no colour to full colour" }),
    make("span", {}, "surprising"),
    make("span.sample.accepted", {}, "draft accepted"),
    make("span.sample.refused", {}, "draft refused"),
  );
}
