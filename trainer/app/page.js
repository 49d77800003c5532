"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const form = $("form"), file = $("file");
  const GIVEN = document.body.dataset.given; // what is dropped: a photograph, or a condition map
  const MOST = Number(document.body.dataset.bytes);
  const DRAWN = ["controlnet", "base"];
  const NUMBERS = ["strength", "seed", "steps", "cfg"];
  const WORDS = ["prompt", "negative_prompt"];
  const PAUSE = 300; // milliseconds between two looks at a generation
  const ENDED = "The page does not answer: is the command that shows it still running?";

  let photograph = null; // what the server calls it, its size, its pictures
  let stem = "picture"; // of the names of downloads
  let watched = null; // the name of the generation that is looked at
  let running = false;
  let taken = 0; // counts the files that were given: an answer to an earlier one is out of date

  // ---- asking

  async function ask(method, address, body) {
    let answer;
    try {
      answer = await fetch(address, { method, body, headers: { Accept: "application/json" } });
    } catch {
      throw new Error(ENDED);
    }
    const found = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(found.error || `The page answered with ${answer.status}.`);
    return found;
  }

  // ---- showing

  const cell = (part) => document.querySelector(`[data-part="${part}"]`);

  function show(part, address) {
    const found = cell(part);
    if (!found) return;
    const image = found.querySelector("img"), link = found.querySelector("figcaption a");
    found.classList.remove("stale");
    image.hidden = link.hidden = !address;
    if (!address) return image.removeAttribute("src");
    if (image.getAttribute("src") !== address) image.src = address;
    link.href = address;
    link.download = `${stem}-${part}.png`;
    link.setAttribute("aria-label", `download: ${found.querySelector("figcaption span").textContent}`);
  }

  for (const image of document.images)
    image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 256));

  const waiting = (part, yes) => cell(part)?.classList.toggle("waiting", yes);
  const say = (text) => { $("said").textContent = text; };

  function complain(text) {
    $("problem").hidden = !text;
    $("problem").textContent = text || "";
  }

  function showPhotograph(found) {
    photograph = found;
    for (const part of ["photograph", "condition"]) show(part, found.pictures[part]);
    if (found.note) say(`Note: ${found.note}.`);
  }

  function showSettings(asked) {
    for (const name of [...WORDS, ...NUMBERS]) $(name).value = asked[name];
    showStrength();
  }

  function showStrength() { $("shown-strength").value = Number($("strength").value).toFixed(2); }

  function busy(yes) {
    const was = running;
    running = yes;
    $("generate").setAttribute("aria-disabled", yes);
    $("cancel").hidden = $("progress").hidden = !yes;
    if (!yes) {
      $("far").textContent = "";
      if (was && document.activeElement === document.body) $("generate").focus(); // Cancel had it
      for (const part of DRAWN) waiting(part, false);
    }
  }

  function address(names) {
    const query = new URLSearchParams(names).toString();
    if (location.search !== `?${query}`) history.pushState(null, "", `?${query}`);
  }

  // ---- a photograph

  async function take(given) {
    if (!given) return;
    complain("");
    say("");
    if (given.size > MOST) return complain(`${given.name} has more than ${MOST / 1e6} MB.`);
    const number = ++taken;
    waiting(GIVEN, true);
    waiting("condition", true);
    try {
      const found = await ask("POST", "/photographs", given);
      if (number !== taken) return;
      stem = given.name.replace(/\.[^.]*$/, "") || "picture";
      watched = null;
      busy(false);
      for (const part of DRAWN) show(part, null);
      showPhotograph(found);
      say(found.note ? `Note: ${found.note}.` : `${given.name}: its condition is there, ${found.width} × ${found.height} px.`);
      address({ photograph: found.name });
    } catch (error) {
      if (number === taken) complain(error.message === ENDED ? ENDED : `${given.name} cannot be used: ${error.message}.`);
    } finally {
      if (number === taken) for (const part of [GIVEN, "condition"]) waiting(part, false);
    }
  }

  file.addEventListener("change", () => { take(file.files[0]); file.value = ""; });
  addEventListener("paste", (event) => take(event.clipboardData.files[0]));
  addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("over");
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
  addEventListener("drop", (event) => {
    document.body.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });

  // ---- a generation

  function settings() {
    for (const name of NUMBERS) {
      const field = $(name), wrong = !field.checkValidity();
      field.setAttribute("aria-invalid", wrong);
      if (wrong) {
        field.closest("details")?.setAttribute("open", "");
        field.focus();
        throw new Error(`${document.querySelector(`label[for="${name}"]`).textContent}: ${field.validationMessage}`);
      }
    }
    const words = WORDS.map((name) => [name, $(name).value]);
    return Object.fromEntries([...words, ...NUMBERS.map((name) => [name, Number($(name).value)])]);
  }

  async function generate() {
    if (running) return;
    complain("");
    if (!photograph) {
      file.focus();
      return complain(`Drop a ${GIVEN === "photograph" ? "photograph" : "condition map"} first.`);
    }
    try {
      const asked = settings();
      busy(true);
      say("Generating.");
      for (const part of DRAWN) cell(part).classList.add("stale");
      const found = await ask("POST", "/generations", JSON.stringify({ ...asked, photograph: photograph.name }));
      address({ result: found.name });
      await watch(found);
    } catch (error) {
      busy(false);
      say("");
      complain(error.message);
    }
  }

  function showGeneration(found) {
    for (const part of DRAWN) {
      if (found.pictures[part]) show(part, found.pictures[part]);
      waiting(part, running && !found.pictures[part]);
    }
    $("progress").value = found.steps ? found.step / found.steps : 0;
    $("far").textContent = found.state === "waiting"
      ? `${found.ahead} ahead in the queue`
      : found.steps ? `step ${found.step} of ${found.steps}` : "";
  }

  const ENDS = {
    done: "Done: both pictures are there.",
    cancelled: "Cancelled.",
    failed: "",
  };

  async function watch(found) {
    watched = found.name;
    busy(!(found.state in ENDS));
    showGeneration(found);
    while (watched === found.name && !(found.state in ENDS)) {
      await new Promise((done) => setTimeout(done, PAUSE));
      if (watched !== found.name) return;
      found = await ask("GET", `/generations/${found.name}`);
      if (watched === found.name) showGeneration(found);
    }
    if (watched !== found.name) return;
    busy(false);
    say(ENDS[found.state]);
    for (const part of DRAWN) if (!found.pictures[part]) show(part, null);
    if (found.problem) complain(`${found.problem[0].toUpperCase()}${found.problem.slice(1)}.`);
  }

  form.addEventListener("submit", (event) => { event.preventDefault(); generate(); });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); generate(); }
  });
  $("cancel").addEventListener("click", () => {
    if (watched) ask("DELETE", `/generations/${watched}`).catch((error) => complain(error.message));
  });
  $("another").addEventListener("click", () => {
    $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
  });
  $("strength").addEventListener("input", showStrength);

  // ---- a reload, and the way back: the address says what was seen

  async function restore() {
    const named = new URLSearchParams(location.search);
    watched = null;
    busy(false);
    complain("");
    say("");
    try {
      if (named.has("result")) {
        const found = await ask("GET", `/generations/${encodeURIComponent(named.get("result"))}`);
        for (const part of DRAWN) show(part, null);
        showPhotograph(found.photograph);
        showSettings(found.asked);
        await watch(found);
      } else if (named.has("photograph")) {
        for (const part of DRAWN) show(part, null);
        showPhotograph(await ask("GET", `/photographs/${encodeURIComponent(named.get("photograph"))}`));
      } else {
        photograph = null;
        for (const part of ["photograph", "condition", ...DRAWN]) show(part, null);
      }
    } catch (error) {
      complain(error.message);
    }
  }

  addEventListener("popstate", restore);
  restore();
})();
