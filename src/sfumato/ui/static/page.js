"use strict";
// What Gradio does not do: the strip of the running job, the keys, names for signs.

const words = fetch("ui/words").then(answer => answer.json()); // what scripts say, by name
const byId = id => document.getElementById(id);
const pressed = id => byId(id)?.click();
const visible = selector => [...document.querySelectorAll(selector)].find(each => each.offsetParent !== null);
const activeTab = () => // its button may be there before its strip
  visible(".sf-strip")?.dataset.tab ?? visible("[id$=_generate]")?.id.replace("_generate", "") ?? "";

// ---- what happens now -------------------------------------------------------------------------------------
const BUSY = 500, IDLE = 3000, HURRY = 250; // milliseconds between two questions
let version = 0, shownTab = "", timer = 0, hurryUntil = 0;
let lost = "The connection is lost; trying again …", noText = "";

async function ask() {
  clearTimeout(timer);
  const tab = activeTab();
  let wait = IDLE;
  if (tab && !document.hidden) {
    if (tab !== shownTab) [version, shownTab, askAgain] = [0, tab, 0];
    try {
      const answer = await fetch(`ui/now?tab=${tab}&preview=${version}`);
      if (answer.status === 401) location.reload();
      if (!answer.ok) throw new Error(String(answer.status));
      const told = await answer.json();
      show(tab, told);
      wait = told.active ? BUSY : IDLE;
    } catch {
      line(tab, lost);
      wait = BUSY;
    }
    if (Date.now() < hurryUntil) wait = HURRY;
  }
  timer = setTimeout(ask, wait);
}

function hurry() { // something was sent; see soon what comes of it
  hurryUntil = Date.now() + 4000;
  clearTimeout(timer);
  timer = setTimeout(ask, HURRY);
}

function line(tab, text) {
  const place = document.querySelector(`.sf-strip[data-tab="${tab}"] .sf-line`);
  if (place && place.textContent !== text) place.textContent = text;
}

function show(tab, told) {
  const strip = document.querySelector(`.sf-strip[data-tab="${tab}"]`);
  if (!strip) return;
  [lost, noText] = [told.lost, told.no_infotext];
  version = told.version;
  line(tab, told.line);
  strip.querySelector(".sf-fault").textContent = told.fault;
  strip.querySelector(".sf-now").hidden = !told.active;
  strip.querySelector(".sf-bar").value = told.share;
  const picture = strip.querySelector(".sf-preview");
  if (told.preview) picture.src = told.preview;
  else if (!told.active) picture.removeAttribute("src");
  picture.hidden = !picture.hasAttribute("src");
  byId(`${tab}_generate`)?.classList.toggle("sf-busy", told.active);
  document.title = told.active ? `[${Math.round(100 * told.share)} %] Sfumato` : "Sfumato";
  again(tab, told);
  document.dispatchEvent(new CustomEvent("sf-now", {detail: {tab, told}}));
  const known = byId(`${tab}_signature`)?.querySelector("input, textarea");
  if (known && known.value !== told.signature && Date.now() > askAgain) {
    askAgain = Date.now() + 1000; // by then the answer is here, or the question was lost
    pressed(`${tab}_refresh`);
  }
}
let askAgain = 0;

// ---- generate forever -------------------------------------------------------------------------------------
const forever = new Map(); // by tab: the job that was the last one when it was begun anew
function again(tab, told) {
  const [job, state] = told.signature.split(":");
  if (!forever.has(tab) || told.active || forever.get(tab) === job) return;
  if (["cancelled", "failed", "interrupted"].includes(state)) return turnForever(tab);
  forever.set(tab, job);
  pressed(`${tab}_generate`);
  hurry();
}

function turnForever(tab) {
  const on = !forever.delete(tab) && Boolean(forever.set(tab, null));
  byId(`${tab}_tool_forever`).setAttribute("aria-pressed", String(on));
  hurry();
}

document.addEventListener("visibilitychange", ask);
addEventListener("online", ask);
document.addEventListener("click", event => {
  const button = event.target.closest?.("button");
  if (button && /_(generate|interrupt|skip)$/.test(button.id)) hurry();
  if (button?.id.endsWith("_tool_forever")) turnForever(button.id.replace("_tool_forever", ""));
  if (button?.role === "tab") setTimeout(ask, 50);
});

// ---- keys -------------------------------------------------------------------------------------------------
document.addEventListener("keydown", event => {
  const tab = activeTab();
  if (!tab) return;
  const typed = event.target instanceof HTMLTextAreaElement ? event.target : null;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    typed?.dispatchEvent(new Event("blur"));
    pressed(`${tab}_generate`);
  } else if (event.key === "Enter" && event.altKey) {
    event.preventDefault();
    pressed(`${tab}_skip`);
  } else if (event.key === "Escape" && document.title.startsWith("[")) {
    pressed(`${tab}_interrupt`);
  } else if (typed && (event.altKey || event.ctrlKey) && /^Arrow(Up|Down)$/.test(event.key)) {
    event.preventDefault();
    weigh(typed, event.key === "ArrowUp" ? 0.1 : -0.1);
  } else if (typed && event.altKey && /^Arrow(Left|Right)$/.test(event.key)) {
    event.preventDefault();
    move(typed, event.key === "ArrowRight" ? 1 : -1);
  }
});

function write(area, text, start, end) {
  area.value = text;
  area.setSelectionRange(start, end);
  area.dispatchEvent(new Event("input", {bubbles: true}));
}

// Give what is selected (or the word at the cursor) another weight: cat → (cat:1.1) → (cat:1.2) → … → cat.
function weigh(area, change) {
  const {value} = area;
  let {selectionStart: start, selectionEnd: end} = area;
  if (start === end) {
    while (start > 0 && !/[\s,.()<>[\]:]/.test(value[start - 1])) start--;
    while (end < value.length && !/[\s,.()<>[\]:]/.test(value[end])) end++;
  }
  if (start === end) return;
  const before = value.slice(0, start), chosen = value.slice(start, end), after = value.slice(end);
  const weighted = before.endsWith("(") && after.match(/^:\s*([\d.]+)\s*\)/);
  const weight = Math.round(10 * ((weighted ? Number(weighted[1]) : 1) + change)) / 10;
  if (weight < 0) return;
  const outside = weighted ? before.slice(0, -1) : before;
  const rest = weighted ? after.slice(weighted[0].length) : after;
  const inside = weight === 1 ? chosen : `(${chosen}:${weight})`;
  const place = outside.length + (weight === 1 ? 0 : 1);
  write(area, outside + inside + rest, place, place + chosen.length);
}

// Move the part between commas that the cursor is in by one place.
function move(area, by) {
  const parts = area.value.split(",");
  let from = 0, at = 0;
  while (at < parts.length - 1 && from + parts[at].length < area.selectionStart) from += parts[at++].length + 1;
  const to = at + by;
  if (to < 0 || to >= parts.length) return;
  const within = area.selectionStart - from;
  const trimmed = parts.map(part => part.trim());
  [trimmed[at], trimmed[to]] = [trimmed[to], trimmed[at]];
  const text = trimmed.join(", ");
  const place = trimmed.slice(0, to).reduce((sum, part) => sum + part.length + 2, 0);
  const cursor = Math.min(place + Math.max(0, within), place + trimmed[to].length);
  write(area, text, cursor, cursor);
}

// ---- a picture or a text that is dropped on a prompt is read into the form ----------------------------------
const promptOf = event => event.target.closest?.("[id$=_prompt_text], [id$=_prompt_negative]");
document.addEventListener("dragover", event => {
  if (promptOf(event) && event.dataTransfer.types.includes("Files")) event.preventDefault();
});
document.addEventListener("drop", async event => {
  const file = promptOf(event) && event.dataTransfer.files[0];
  if (!file) return;
  event.preventDefault();
  event.stopPropagation();
  const tab = promptOf(event).id.replace(/_prompt_\w+$/, "");
  const text = file.type.startsWith("text/") ? await file.text() : await parameters(file);
  const area = document.querySelector(`#${tab}_prompt_text textarea`);
  if (!text) return line(tab, noText);
  write(area, text, text.length, text.length);
  setTimeout(() => pressed(`${tab}_tool_paste`), 50); // when Gradio has seen it
}, true);

async function parameters(file) {
  const image = await new Promise(done => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.readAsDataURL(file);
  });
  const answer = await fetch("sdapi/v1/png-info", {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({image}),
  });
  return answer.ok ? (await answer.json()).info : "";
}

// ---- names for signs --------------------------------------------------------------------------------------
async function name() {
  const say = await words;
  const apply = () => {
    for (const button of document.querySelectorAll("button[id*=_tool_]:not([aria-label])")) {
      const word = say[button.id.split("_tool_")[1]];
      if (word) [button.title, button.ariaLabel] = [word, word];
    }
  };
  apply();
  new MutationObserver(apply).observe(document.body, {childList: true, subtree: true});
}

name();
ask();
new MutationObserver((_, observer) => { // until Gradio has made the page
  if (!document.querySelector(".sf-strip")) return;
  observer.disconnect();
  ask();
}).observe(document.body, {childList: true, subtree: true});
