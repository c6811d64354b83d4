// What pages can do beyond what they do without scripts: copy, filter, find, times from now, the theme.

const status = document.querySelector("[data-status]");

// say tells people who cannot see what changed.
function say(text) {
  if (status) status.textContent = text;
}

// Theme: as the system has it, light or dark. The choice is kept in the browser.
const themes = ["auto", "light", "dark"];
let theme = "auto";
try {
  theme = localStorage.getItem("theme") ?? "auto";
} catch {
  // Storage may be turned off; the system's theme is good then.
}

function applyTheme() {
  if (!themes.includes(theme)) theme = "auto";
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}
applyTheme();

function enhance() {
  for (const button of document.querySelectorAll("[data-theme-switch]")) {
    const label = () => { button.querySelector("[data-theme-name]").textContent = theme; };
    button.hidden = false;
    label();
    button.addEventListener("click", () => {
      theme = themes[(themes.indexOf(theme) + 1) % themes.length];
      applyTheme();
      label();
      try {
        localStorage.setItem("theme", theme);
      } catch {
        // It holds for this page, then.
      }
    });
  }
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }
  // Where not all tabs have room, the one that is open is to be seen.
  for (const tab of document.querySelectorAll(".tabs [aria-current]")) {
    const tabs = tab.closest(".tabs");
    tabs.scrollLeft += tab.getBoundingClientRect().right - tabs.getBoundingClientRect().right + 48;
  }
  for (const input of document.querySelectorAll("[data-filter][data-complete]")) filter(input);
  for (const input of document.querySelectorAll("[data-find]")) find(input);
  for (const time of document.querySelectorAll("time[datetime]")) fromNow(time);
}

// copy puts the code beside a button onto the clipboard.
async function copy(button) {
  const code = button.closest(".snippet, [data-snippet]").querySelector("code");
  // What the button is for stands behind its first word, for those who cannot see beside what it is.
  const word = button.firstChild;
  try {
    await navigator.clipboard.writeText(code.dataset.full ?? code.textContent);
    word.data = "Copied";
    say("Copied");
  } catch {
    // Without leave to write the clipboard, or without TLS: select it, so that a key press copies.
    getSelection().selectAllChildren(code);
    word.data = "Selected";
    say("Selected; copy it with your keyboard");
  }
  setTimeout(() => { word.data = "Copy"; }, 2000);
}

// filter hides the rows of a table that do not have what is typed. All rows are on the page: else the server searches.
function filter(input) {
  const rows = document.querySelectorAll(`#${input.dataset.filter} tbody tr`);
  const found = document.querySelector("[data-found]");
  input.addEventListener("input", () => {
    const words = input.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.querySelector("th").textContent.toLowerCase().includes(words);
      if (!row.hidden) shown++;
    }
    const text = words ? `${shown} of ${rows.length} charts` : "";
    if (found) found.textContent = text;
    say(text);
  });
}

// find leads to the lines whose path has what is typed, and shows the path, to copy. Enter goes to the next one, and makes its
// address that of the page: what a click on a line's number does for who has a mouse.
function find(input) {
  const lines = [...document.querySelectorAll(".line[data-path]")];
  if (lines.length === 0) return;
  input.hidden = false;
  const found = document.querySelector("[data-found-path]");
  let hits = [], at = -1;
  const show = () => {
    for (const line of lines) line.classList.remove("hit", "here");
    for (const line of hits) line.classList.add("hit");
    found.hidden = at < 0;
    if (at < 0) return;
    found.querySelector("code").textContent = hits[at].dataset.path;
    hits[at].classList.add("here");
    hits[at].scrollIntoView({ block: "center" });
    say(`${at + 1} of ${hits.length}: ${hits[at].dataset.path}`);
  };
  input.addEventListener("input", () => {
    const words = input.value.trim().toLowerCase();
    hits = words ? lines.filter((line) => line.dataset.path.toLowerCase().includes(words)) : [];
    at = hits.length ? 0 : -1;
    if (words && at < 0) say("No such path");
    show();
  });
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || hits.length === 0) return;
    event.preventDefault();
    at = (at + (event.shiftKey ? hits.length - 1 : 1)) % hits.length;
    show();
    history.replaceState(history.state, "", "#" + hits[at].id);
  });
  // A double click on a line's number copies the path of its key.
  document.querySelector(".lines").addEventListener("dblclick", async (event) => {
    const path = event.target.closest(".n") && event.target.closest(".line")?.dataset.path;
    if (!path) return;
    try {
      await navigator.clipboard.writeText(path);
      say(`Copied ${path}`);
    } catch {
      say(path);
    }
  });
}

const units = [["year", 31536000], ["month", 2592000], ["week", 604800], ["day", 86400], ["hour", 3600], ["minute", 60]];

// fromNow writes how long ago a time is; the time itself stays in the title.
function fromNow(time) {
  const seconds = (new Date(time.dateTime) - Date.now()) / 1000;
  if (Number.isNaN(seconds)) return;
  const format = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  const [unit, length] = units.find(([, length]) => Math.abs(seconds) >= length) ?? ["second", 1];
  time.textContent = unit === "second" ? (seconds > 0 ? "in a moment" : "just now") : format.format(Math.trunc(seconds / length), unit);
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", enhance);
else enhance();
