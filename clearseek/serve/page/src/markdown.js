/** Markdown as clean elements: markdown-it, then DOMPurify, then nothing that reads HTML. */
import { tex } from "@mdit/plugin-tex";
import DOMPurify from "dompurify";
import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import go from "highlight.js/lib/languages/go";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import MarkdownIt from "markdown-it";
import temml from "temml";
import { copy, make } from "./dom.js";

const languages = { bash, c, cpp, css, diff, go, java, javascript, json, python, rust, sql, typescript, xml, yaml };
for (const [name, language] of Object.entries(languages)) hljs.registerLanguage(name, language);

const LONGEST_FORMULA = 4000;
const markdown = new MarkdownIt({ html: false, linkify: true, highlight });
const escape = markdown.utils.escapeHtml;
markdown.use(tex, { delimiters: "all", render: formula });
markdown.renderer.rules.image = (tokens, index) => {
  const source = tokens[index].attrGet("src") ?? "";
  const words = escape(tokens[index].content || "image");
  if (source.startsWith("data:image/")) return `<img src="${escape(source)}" alt="${words}">`;
  return `<a href="${escape(source)}">${words}</a>`; // its host would learn of it
};

function highlight(text, name) {
  const language = hljs.getLanguage(name) && text.length < 50000;
  return language ? hljs.highlight(text, { language: name, ignoreIllegals: true }).value : "";
}

/** A formula as MathML. Style attributes, which the page's policy bars, are renamed, and set one by one by look(). */
function formula(text, display) {
  const given = {
    displayMode: display,
    throwOnError: true,
    trust: false,
    strict: false,
    maxExpand: 300,
    maxSize: [20, 20],
  };
  try {
    if (text.length > LONGEST_FORMULA) throw new RangeError("too long");
    return temml.renderToString(text, given).replaceAll(' style="', ' data-look="');
  } catch {
    return `<code>${escape(text)}</code>`;
  }
}

const CLEAN = {
  USE_PROFILES: { html: true, mathMl: true },
  FORBID_CONTENTS: ["script", "style"],
  FORBID_TAGS: ["form", "input", "button", "textarea", "select", "dialog", "style", "audio", "video", "source"],
  FORBID_ATTR: ["style", "id", "name"],
  RETURN_DOM_FRAGMENT: true,
};
DOMPurify.addHook("afterSanitizeAttributes", (element) => {
  if (element.tagName !== "A") return;
  element.setAttribute("target", "_blank");
  element.setAttribute("rel", "noopener noreferrer nofollow");
});

// What formulas may look like; see formula().
const LOOKS =
  /^(padding|color$|border|width$|margin|text-align$|font-(weight|style)$|math-depth$|white-space$|justify-content$)/;

function look(element) {
  for (const part of element.dataset.look.split(";")) {
    const [name, value] = part.split(":").map((each) => each.trim());
    if (value && LOOKS.test(name) && !value.includes("(")) element.style.setProperty(name, value);
  }
  delete element.dataset.look;
}

/**
 * Show a text in an element. Blocks (paragraphs, lists, code) that are as they were stay as they are: a text that grows
 * costs its last block alone, and what a reader has selected or scrolled in the others remains.
 */
export function show(element, text) {
  const lines = text.split("\n");
  const surroundings = {};
  const old = shown.get(element) ?? [];
  const blocks = [];
  let begun = 0;
  const tokens = markdown.parse(text, surroundings);
  const references = JSON.stringify(surroundings.references ?? {}); // the ends of links may be named blocks below
  tokens.forEach((token, index) => {
    if (token.level !== 0 || token.nesting > 0) return;
    const [from, to] = tokens[begun].map;
    const source = references + lines.slice(from, to).join("\n");
    const same = old[blocks.length]?.source === source && old[blocks.length];
    blocks.push(
      same || {
        source,
        nodes: clean(markdown.renderer.render(tokens.slice(begun, index + 1), markdown.options, surroundings)),
      },
    );
    begun = index + 1;
  });
  const kept = blocks.findIndex((block, index) => block !== old[index]);
  const first = kept < 0 ? blocks.length : kept;
  for (const block of old.slice(first)) for (const node of block.nodes) node.remove();
  for (const block of blocks.slice(first)) element.append(...block.nodes);
  shown.set(element, blocks);
}

const shown = new WeakMap();

function clean(html) {
  const fragment = DOMPurify.sanitize(html, CLEAN);
  for (const element of fragment.querySelectorAll("math [data-look]")) look(element);
  for (const block of fragment.querySelectorAll("pre")) frame(block);
  for (const table of fragment.querySelectorAll("table")) {
    const box = make("div.scroll", { tabIndex: 0, role: "region", "aria-label": "Table" });
    table.replaceWith(box);
    box.append(table);
  }
  return [...fragment.childNodes];
}

/** Give a block of code its language's name and a button that copies it. */
function frame(block) {
  const code = block.querySelector("code");
  const language = /language-([\w+#-]+)/.exec(code?.className ?? "")?.[1] ?? "";
  const button = make("button.quiet", { type: "button" }, "Copy");
  button.addEventListener("click", () => copy(block.textContent.replace(/\n$/, ""), button));
  const figure = make("figure.code", {}, make("figcaption", {}, make("span", {}, language || "text"), button));
  block.tabIndex = 0;
  block.replaceWith(figure);
  figure.append(block);
}
