/** The dialog of settings. */
import { key } from "./api.js";
import { byId, make } from "./dom.js";
import { NUMBERS, keep, schema, settings } from "./settings.js";

/** Fill and connect the dialog; `changed` is told when it closes, and whether the key is another one. */
export function connect(changed) {
  const dialog = byId("settings");
  for (const [name, label, least, most, step, without, meaning] of NUMBERS) {
    const input = make("input", {
      id: `set-${name}`,
      type: "number",
      min: least,
      max: most,
      step,
      placeholder: without,
      inputMode: "decimal",
      "aria-describedby": `hint-${name}`,
    });
    if (Number.isFinite(settings[name])) input.value = settings[name];
    input.addEventListener("change", () => {
      const good = input.value !== "" && input.checkValidity();
      settings[name] = good ? Number(input.value) : undefined;
      if (!good && input.value !== "") input.reportValidity();
      keep();
    });
    const words = make("span.hint", { id: `hint-${name}` }, meaning);
    byId("numbers").append(make("div.field", {}, make("label", { for: input.id }, label), input, words));
  }
  text("set-system", "system");
  text("set-theme", "theme", showTheme);
  text("set-mode", "mode");
  byId("set-schema").value = settings.schema;
  byId("set-schema").addEventListener("input", checkSchema);
  byId("set-key").value = key.get();
  byId("reset").addEventListener("click", () => {
    for (const [name] of NUMBERS) (delete settings[name], (byId(`set-${name}`).value = ""));
    for (const name of ["system", "schema"]) byId(`set-${name}`).value = settings[name] = "";
    checkSchema();
    keep();
  });
  byId("open-settings").addEventListener("click", () => dialog.showModal());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    const before = key.get();
    key.set(byId("set-key").value.trim());
    changed(key.get() !== before);
  });
  checkSchema();
  showTheme();
}

function text(id, name, act = () => {}) {
  const field = byId(id);
  field.value = settings[name];
  field.addEventListener("input", () => {
    settings[name] = field.value;
    keep();
    act();
  });
}

function checkSchema() {
  const field = byId("set-schema");
  const told = byId("schema-error");
  try {
    schema(field.value);
    settings.schema = field.value;
    keep();
    told.textContent = "";
  } catch (error) {
    settings.schema = "";
    told.textContent = `Not used: ${error.message}`;
  }
  field.setAttribute("aria-invalid", String(told.textContent !== ""));
}

function showTheme() {
  document.documentElement.dataset.theme = settings.theme;
}
