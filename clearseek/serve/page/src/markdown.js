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
import katex from "katex";
import MarkdownIt from "markdown-it";
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
  return `<a href="${escape(source)}">${words}</a>`; // an image from elsewhere would tell its host of the conversation
};

function highlight(text, name) {
  const language = hljs.getLanguage(name) && text.length < 50000;
  return language ? hljs.highlight(text, { language: name, ignoreIllegals: true }).value : "";
}

function formula(text, display) {
  const given = { displayMode: display, output: "mathml", strict: "ignore", trust: false, maxExpand: 300, maxSize: 20 };
  try {
    if (text.length > LONGEST_FORMULA) throw new RangeError("too long");
    return katex.renderToString(text, given);
  } catch {
    return `<code>${escape(text)}</code>`;
  }
}

const CLEAN = {
  USE_PROFILES: { html: true, mathMl: true },
  ADD_TAGS: ["semantics"],
  FORBID_CONTENTS: ["annotation", "script", "style"],
  FORBID_TAGS: ["form", "input", "button", "textarea", "select", "dialog", "style", "audio", "video", "source"],
  FORBID_ATTR: ["style", "id", "name"],
  RETURN_DOM_FRAGMENT: true,
};
DOMPurify.addHook("afterSanitizeAttributes", (element) => {
  if (element.tagName !== "A") return;
  element.setAttribute("target", "_blank");
  element.setAttribute("rel", "noopener noreferrer nofollow");
});

/** A text's elements. */
export function rendered(text) {
  const fragment = DOMPurify.sanitize(markdown.render(text), CLEAN);
  for (const block of fragment.querySelectorAll("pre")) frame(block);
  for (const table of fragment.querySelectorAll("table")) {
    const box = make("div.scroll", { tabIndex: 0, role: "region", "aria-label": "Table" });
    table.replaceWith(box);
    box.append(table);
  }
  return fragment;
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
