/** Builds index.html, one file without requests, from src/ and the packages in package-lock.json. */
import { createHash } from "node:crypto";
import { readFile, readdir, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const here = new URL("./", import.meta.url);
const text = (name) => readFile(new URL(name, here), "utf8");

/** A hash of everything the page is built from, by which a stale page is told without building it. */
async function fingerprint() {
  const hash = createHash("sha256");
  const sources = (await readdir(new URL("src/", here))).sort().map((name) => `src/${name}`);
  for (const name of ["build.mjs", "package-lock.json", "package.json", ...sources])
    hash.update(`${name}\0${await text(name)}\0`);
  return hash.digest("hex");
}

/** Names, versions and licences of the packages that are in the page. */
async function notices(inputs) {
  const folders = new Set(
    Object.keys(inputs)
      .map((path) => /^node_modules\/(@[^/]+\/)?[^/]+/.exec(path)?.[0])
      .filter(Boolean),
  );
  const found = [];
  for (const folder of [...folders].sort()) {
    const { name, version, license } = JSON.parse(await text(`${folder}/package.json`));
    const file = (await readdir(new URL(folder, here))).find((each) => /^licen[cs]e(-mit)?(\.\w+)?$/i.test(each));
    const words = (await text(`${folder}/${file}`)).trim();
    const own = words.length < 4000 ? words : "Used under Apache-2.0, whose text is ClearSeek's LICENSE.";
    found.push(`${name} ${version}, ${license}\n\n${own}`);
  }
  return found.join(`\n\n${"=".repeat(80)}\n\n`).replaceAll("--", "- -");
}

const { outputFiles, metafile } = await build({
  absWorkingDir: new URL(".", here).pathname,
  entryPoints: ["src/main.js"],
  bundle: true,
  minify: true,
  write: false,
  metafile: true,
  format: "iife",
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
});
const styles = await build({
  absWorkingDir: new URL(".", here).pathname,
  entryPoints: ["src/page.css"],
  bundle: true,
  minify: true,
  write: false,
  charset: "utf8",
  external: ["*.woff2"],
});
const style = styles.outputFiles[0].text.trim().replace(/@font-face\{[^}]*\}/g, ""); // a font would be another file
const script = outputFiles[0].text.trim().replaceAll("</script", "<\\/script");
const sources = await fingerprint();
const page = (await text("src/page.html"))
  .replace("/*STYLE*/", () => style)
  .replace("/*SCRIPT*/", () => script)
  .replace("<html", () => `<!-- built by build.mjs from sources ${sources} -->\n<html`)
  .trimEnd();
await writeFile(new URL("index.html", here), `${page}\n<!--\n${await notices(metafile.inputs)}\n-->\n`);
