// The page as a whole: which view is shown, in which colours, and with which key.

import { address, check, onKeyNeeded, storedKey, storeKey } from "./api.js";
import * as detect from "./detect.js";
import { byId, setText } from "./dom.js";
import { copy } from "./exports.js";
import * as live from "./live.js";

const VIEWS = ["detect", "live", "guide"];
const PRINTABLE = /^[\x21-\x7e]+$/;

// --- views -----------------------------------------------------------------------------------------------------------

function showView() {
  const wanted = location.hash.slice(1);
  const view = VIEWS.includes(wanted) ? wanted : VIEWS[0];
  for (const each of VIEWS) byId(each).hidden = each !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${byId(`${view}-title`).textContent} \u2013 EagleEye`;
  if (view === "live") live.resume();
  else live.stop();
}

// --- colours ---------------------------------------------------------------------------------------------------------

function setUpTheme() {
  const select = byId("theme");
  select.value = document.documentElement.dataset.theme ?? "";
  select.addEventListener("change", () => {
    if (select.value) document.documentElement.dataset.theme = select.value;
    else delete document.documentElement.dataset.theme;
    localStorage.setItem("eagleeye.theme", select.value);
  });
}

// --- the key ---------------------------------------------------------------------------------------------------------

let asking = null; // the promise of the dialog that is open

/** Ask for a key, and come back when the gateway knows the one that was given; `reason` is what was wrong before. */
function askForKey(reason) {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    complain(reason);
    byId("key").value = "";
    byId("forget").hidden = !storedKey();
    dialog.addEventListener(
      "close",
      () => {
        asking = null;
        showKey();
        resolve(dialog.returnValue === "known");
      },
      { once: true },
    );
    dialog.returnValue = "";
    dialog.showModal();
  });
  return asking;
}

function complain(text) {
  byId("key-error").hidden = !text;
  setText(byId("key-error"), text);
  byId("key").setAttribute("aria-invalid", Boolean(text));
}

async function tryKey(event) {
  event.preventDefault();
  const key = byId("key").value.trim();
  if (!PRINTABLE.test(key)) {
    complain(key ? "A key has letters, digits and punctuation only; this has something else in it." : "Type or paste a key first.");
    return;
  }
  try {
    await check(key);
  } catch (problem) {
    complain(problem.status === 401 ? "The gateway does not know this key. Check that it is complete; it may have been removed." : problem.message);
    byId("key").select();
    return;
  }
  const isOther = key !== storedKey();
  storeKey(key);
  byId("key-dialog").close("known");
  if (isOther) startAnew();
}

function showKey() {
  setText(byId("key-button"), storedKey() ? "Key set" : "Key");
  showGuideLine();
}

function setUpKey() {
  onKeyNeeded(askForKey);
  byId("key-form").addEventListener("submit", tryKey);
  byId("key-cancel").addEventListener("click", () => byId("key-dialog").close(""));
  byId("key-button").addEventListener("click", () => askForKey(""));
  byId("forget").addEventListener("click", () => {
    storeKey("");
    location.reload();
  });
  showKey();
}

// --- guide -----------------------------------------------------------------------------------------------------------

function showGuideLine() {
  const sample = address("console/sample.png").href;
  const key = storedKey() ? ' -H "X-API-Key: $EAGLEEYE_KEY"' : "";
  setText(byId("guide-curl"), `curl -s ${sample} | curl${key} --data-binary @- ${address("v1/detect").href}`);
}

function setUpGuide() {
  byId("guide-copy").addEventListener("click", async () => {
    const isCopied = await copy(byId("guide-curl").textContent, byId("guide-curl"));
    setText(byId("guide-status"), isCopied ? "Copied." : "Copy the selected line by hand; the browser does not let this page.");
  });
  byId("guide-sample").addEventListener("click", () => {
    location.hash = "#detect";
    byId("try-sample").click();
  });
}

// --- begin -----------------------------------------------------------------------------------------------------------

function start() {
  setText(byId("problem-models"), "");
  detect.loadModels().catch((problem) => setText(byId("problem-models"), problem.message));
}

function startAnew() {
  start();
  live.restart();
}

setUpTheme();
setUpKey();
detect.setUp();
live.setUp();
setUpGuide();
byId("reload-models").addEventListener("click", start);
addEventListener("hashchange", () => {
  showView();
  byId("main").focus({ preventScroll: true });
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
showView();
start();
