// The live page: what stands in the editors is sent at each keystroke, the answer is drawn.
(() => {
  "use strict";
  const { element, button, drawTokens, hideCard, plural, visible, themeButton } = lossmask;
  const app = document.getElementById("app");
  const LINE = 20; // pixels of a line in an editor, as live.css has it
  const PAD = 10;
  const IDLE = 450; // milliseconds without a keystroke before origins are asked for
  const REMEMBERED = 200; // timings

  // --- the server -------------------------------------------------------------------------------

  function secretOf() {
    const given = location.hash.slice(1);
    if (given) {
      sessionStorage.lossmaskSecret = given;
      history.replaceState(null, "", location.pathname);
    }
    return sessionStorage.lossmaskSecret || "";
  }
  const secret = secretOf();
  window.addEventListener("hashchange", () => location.reload());
  const page = crypto.getRandomValues(new Uint32Array(4)).join("-");

  class Refused extends Error {}

  async function post(path, body, signal) {
    const answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Lossmask-Token": secret },
      body: JSON.stringify(body),
      signal,
    });
    const value = await answer.json();
    if (!answer.ok) throw new Refused(value.detail);
    return value;
  }

  let sent = 0;
  /** Ask; the server leaves out what is older than the newest question of a page. */
  const ask = (question, state, signal) =>
    post("encode", { question, page, number: ++sent, state }, signal);

  // --- JSON whose numbers stay as they are written ------------------------------------------------

  const keepsNumbers = typeof JSON.rawJSON === "function";
  const asWritten = (key, value, context) =>
    typeof value === "number" && String(value) !== context.source
      ? JSON.rawJSON(context.source)
      : value;
  const parse = (text) => JSON.parse(text, asWritten);
  const write = (value) => JSON.stringify(value, null, 2);
  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

  /** Return the row of a text to be edited message by message, or why it cannot be. */
  function readRow(text) {
    let row;
    try {
      row = parse(text);
    } catch {
      return "what stands in the JSON cannot be read";
    }
    if (!keepsNumbers) return "this browser would write numbers anew";
    if (/"(?:0|[1-9]\d*)"\s*:/.test(text)) return "keys that are numbers would change their order";
    if (!isObject(row) || !Array.isArray(row.messages)) return "the row has no list of messages";
    const isMessage = (each) => isObject(each) && typeof each.role === "string";
    return row.messages.every(isMessage) ? row : "a message has no role";
  }

  // --- editors ------------------------------------------------------------------------------------

  function area(label, value, onInput) {
    const made = element("textarea", "");
    made.value = value;
    made.spellcheck = false;
    made.autocomplete = "off";
    made.setAttribute("autocapitalize", "off");
    made.setAttribute("aria-label", label);
    made.addEventListener("input", () => onInput(made.value));
    return made;
  }

  function problemLine() {
    const made = element("p", "problem");
    made.hidden = true;
    made.setAttribute("role", "status");
    return made;
  }

  function tell(problem, text) {
    problem.textContent = text ? visible(text) : "";
    problem.hidden = !text;
  }

  /** An editor with numbered lines, one of which can be marked as wrong, and one as an origin. */
  function codeEditor(label, onInput) {
    const gutter = element("div", "gutter");
    gutter.setAttribute("aria-hidden", "true");
    const marks = { wrong: element("div", "mark is-wrong"), origin: element("div", "mark is-origin") };
    const at = { wrong: 0, origin: 0 };
    const problem = problemLine();
    let count = 0;
    const text = area(label, "", () => {
      number();
      put("origin", 0);
      onInput();
    });
    text.wrap = "off";
    function number() {
      const lines = text.value.split("\n").length;
      if (lines === count) return;
      count = lines;
      gutter.textContent = Array.from({ length: count }, (_, k) => k + 1).join("\n");
    }
    function place() {
      gutter.scrollTop = text.scrollTop;
      for (const [name, mark] of Object.entries(marks)) {
        mark.hidden = !at[name];
        mark.style.top = `${PAD + (at[name] - 1) * LINE - text.scrollTop}px`;
      }
    }
    function put(name, line) {
      at[name] = line || 0;
      place();
    }
    function reveal(line) {
      const top = (line - 1) * LINE;
      if (top < text.scrollTop || top > text.scrollTop + text.clientHeight - 2 * LINE) {
        text.scrollTop = Math.max(0, top - text.clientHeight / 2);
      }
    }
    text.addEventListener("scroll", place, { passive: true });
    const frame = element("div", "code", marks.origin, marks.wrong, gutter, text);
    number();
    place();
    return {
      element: element("div", "code-editor", frame, problem),
      text,
      get value() {
        return text.value;
      },
      set(value) {
        text.value = value;
        number();
        put("origin", 0);
      },
      wrong(line, detail) {
        put("wrong", line);
        if (line && document.activeElement !== text) reveal(line);
        tell(problem, detail);
      },
      origin(line) {
        put("origin", line);
        if (line) reveal(line);
      },
    };
  }

  function choice(label, options, onChoice) {
    const made = element("select", "lm-button");
    made.setAttribute("aria-label", label);
    for (const [value, text] of options) {
      const option = element("option", "", text);
      option.value = value;
      made.append(option);
    }
    made.addEventListener("change", () => onChoice(made.value));
    return made;
  }

  // --- the state of the page ------------------------------------------------------------------------

  let start = null; // what the server said at first
  let row = null; // the row as an object while it is edited message by message
  let mode = "messages";
  const broken = new Set(); // fields of JSON that cannot be read
  const editors = {
    row: codeEditor("The row as JSON", () => changed()),
    template: codeEditor("Chat template", () => changed()),
    policy: codeEditor("Policy as YAML", () => changed()),
  };
  const stopsProblem = problemLine();
  const stops = area("Further stop tokens, one on each line", "", () => changed());
  stops.rows = 2;

  function state() {
    return {
      row: editors.row.value,
      template: editors.template.value,
      policy: editors.policy.value,
      stops: stops.value.split("\n").filter((line) => line !== ""),
    };
  }

  // --- messages ---------------------------------------------------------------------------------------

  const list = element("div", "messages");
  const REASONING = ["reasoning_content", "reasoning", "thinking"];
  const CALL = { type: "function", function: { name: "name", arguments: {} } };

  function rowChanged() {
    editors.row.set(write(row));
    changed();
  }

  function field(label, input, onRemove) {
    const head = element("div", "field-head", element("span", "field-name", label));
    if (onRemove) head.append(icon("×", `Remove ${label}`, onRemove));
    return element("div", "field", head, input);
  }

  function icon(sign, label, pressed) {
    const made = button("icon", sign, pressed);
    made.title = label;
    made.setAttribute("aria-label", label);
    return made;
  }

  function jsonField(label, value, onValue, onRemove) {
    const problem = problemLine();
    const text = area(label, write(value), (typed) => {
      try {
        const read = parse(typed);
        broken.delete(text);
        tell(problem, "");
        onValue(read);
      } catch (error) {
        if (!(error instanceof SyntaxError)) throw error;
        broken.add(text);
        tell(problem, error.message);
        changed();
      }
    });
    text.classList.add("is-code");
    return field(label, element("div", "", text, problem), onRemove);
  }

  function redraw() {
    broken.clear();
    list.replaceChildren(...row.messages.map(messageCard), addButton());
    if (row.tools !== undefined) {
      const onValue = (value) => {
        row.tools = value;
        rowChanged();
      };
      const onRemove = () => {
        delete row.tools;
        redraw();
        rowChanged();
      };
      list.append(element("div", "message is-tools", jsonField("tools", row.tools, onValue, onRemove)));
    }
  }

  function addButton() {
    const add = () => {
      const last = row.messages.at(-1)?.role;
      row.messages.push({ role: last === "user" ? "assistant" : "user", content: "" });
      redraw();
      rowChanged();
      [...list.querySelectorAll("textarea.content")].at(-1)?.focus();
    };
    const made = element("div", "add", button("lm-button", "+ message", add));
    if (row.tools === undefined) {
      made.append(
        button("lm-button", "+ tools", () => {
          row.tools = [];
          redraw();
          rowChanged();
        }),
      );
    }
    return made;
  }

  function messageCard(message, index) {
    const card = element("article", "message");
    card.dataset.role = message.role;
    card.dataset.index = index;
    const changeStructure = (change) => () => {
      change();
      redraw();
      rowChanged();
    };
    const roles = start.roles.includes(message.role) ? start.roles : [message.role, ...start.roles];
    const role = choice(
      `Role of message ${index}`,
      roles.map((name) => [name, visible(name)]),
      (value) => {
        message.role = value;
        redraw();
        rowChanged();
      },
    );
    role.className = "role";
    role.value = message.role;
    const move = (by) =>
      changeStructure(() => {
        row.messages.splice(index, 1);
        row.messages.splice(index + by, 0, message);
      });
    const up = icon("↑", `Move message ${index} up`, move(-1));
    const down = icon("↓", `Move message ${index} down`, move(1));
    up.disabled = index === 0;
    down.disabled = index === row.messages.length - 1;
    const remove = icon(
      "×",
      `Remove message ${index}`,
      changeStructure(() => row.messages.splice(index, 1)),
    );
    const reasoning = REASONING.find((name) => name in message);
    const known = ["role", "content", "tool_calls", ...(reasoning ? [reasoning] : [])];
    const others = Object.entries(message).filter(([name]) => !known.includes(name));
    const adders = element("span", "adders");
    const adder = (label, change) => adders.append(button(`adder is-${label.split(" ")[0]}`, `+ ${label}`, changeStructure(change)));
    if (message.role === "assistant") {
      if (!reasoning) adder("reasoning", () => (message.reasoning_content = ""));
      if (!("tool_calls" in message)) adder("tool calls", () => (message.tool_calls = [structuredClone(CALL)]));
    }
    if (!others.length) adder("weight", () => (message.weight = 1));
    const number = element("span", "number", `${index}`);
    card.append(element("header", "message-head", number, role, adders, up, down, remove));
    if (reasoning) card.append(valueField(message, reasoning, "reasoning", changeStructure));
    card.append(valueField(message, "content", null, changeStructure));
    if ("tool_calls" in message) {
      card.append(valueField(message, "tool_calls", "tool calls", changeStructure));
    }
    if (others.length) {
      const onValue = (value) => {
        if (!isObject(value)) value = {};
        for (const [name] of others) delete message[name];
        others.splice(0, others.length, ...Object.entries(value).filter(([name]) => !known.includes(name)));
        for (const [name, each] of others) message[name] = each;
        rowChanged();
      };
      card.append(jsonField("other keys", Object.fromEntries(others), onValue));
    }
    const problem = problemLine();
    problem.classList.add("of-message");
    card.append(problem);
    return card;
  }

  function valueField(message, name, label, changeStructure) {
    const value = message[name];
    const set = (given) => {
      message[name] = given;
      rowChanged();
    };
    const remove = label && changeStructure(() => delete message[name]);
    const isText = typeof value === "string" || (name !== "tool_calls" && (value ?? null) === null);
    if (!isText) return jsonField(label ?? name, value, set, remove);
    const text = area(label ?? name, value ?? "", set);
    text.classList.add(name === "content" ? "content" : "aside");
    if (name === "content") {
      text.placeholder = "…";
      return text;
    }
    return field(label, text, remove);
  }

  // --- tabs of the editors -----------------------------------------------------------------------------

  const modes = element("div", "segments");
  const modeNote = element("p", "note");
  const conversation = element("div", "pane");
  const modeButtons = {
    messages: button("segment", "Messages", () => setMode("messages")),
    json: button("segment", "JSON", () => setMode("json")),
  };
  modes.append(modeButtons.messages, modeButtons.json);

  /** Edit the row message by message where that changes nothing else of it, or as JSON. */
  function setMode(asked) {
    const read = readRow(editors.row.value);
    const cannot = typeof read === "string";
    mode = cannot ? "json" : asked;
    row = mode === "messages" ? read : null;
    broken.clear();
    modeNote.textContent = cannot && asked === "messages" ? `Edited as JSON: ${read}.` : "";
    for (const [name, made] of Object.entries(modeButtons)) {
      made.setAttribute("aria-pressed", `${name === mode}`);
    }
    if (row) redraw();
    conversation.replaceChildren(modeNote, row ? list : editors.row.element);
  }

  const tabs = {};
  const panes = element("div", "panes");

  function makeTab(name, label, pane) {
    const made = button("tab", label, () => openTab(name));
    made.setAttribute("role", "tab");
    made.id = `tab-${name}`;
    pane.setAttribute("role", "tabpanel");
    pane.setAttribute("aria-labelledby", made.id);
    tabs[name] = { button: made, pane };
    panes.append(pane);
    return made;
  }

  function openTab(name) {
    if (name === "doctor") diagnose();
    for (const [each, tab] of Object.entries(tabs)) {
      tab.button.setAttribute("aria-selected", `${each === name}`);
      tab.pane.hidden = each !== name;
    }
    modes.hidden = name !== "conversation";
  }

  // --- what comes back -----------------------------------------------------------------------------------

  const summary = element("div", "summary");
  const refusal = element("div", "refusal");
  refusal.setAttribute("role", "status");
  refusal.hidden = true;
  const exampleTabs = element("div", "segments examples");
  const tokens = element("div", "tokens");
  const findings = element("div", "findings");
  const timing = element("span", "timing");
  const proven = element("span", "proven");
  const result = element("section", "result", summary, refusal, exampleTabs, tokens, findings);
  result.setAttribute("aria-label", "Tokens");

  let examples = [];
  let shown = 0;
  let drawn = null;

  function figure(value, label, kind = "") {
    return element("div", `figure ${kind}`, element("b", "", value), element("span", "", label));
  }

  function drawSummary() {
    const example = examples[shown];
    if (!example) return;
    const part = example.tokens ? example.supervised / example.tokens : 0;
    const fill = element("span", "");
    fill.style.width = `${100 * part}%`;
    const share = element("div", "share", fill);
    summary.replaceChildren(
      figure(example.tokens.toLocaleString("en"), example.tokens === 1 ? "token" : "tokens"),
      figure(example.supervised.toLocaleString("en"), "in the loss", "is-trained"),
      figure(`${(100 * part).toFixed(1)}%`, "of the example"),
      figure(`${example.stops.length}`, example.stops.length === 1 ? "stop" : "stops", "is-stop"),
      share,
    );
  }

  function drawExample() {
    const example = examples[shown];
    hideCard();
    exampleTabs.hidden = examples.length < 2;
    if (examples.length > 1) {
      const choose = (k) => () => {
        shown = k;
        drawExample();
      };
      exampleTabs.replaceChildren(
        ...examples.map((each, k) => {
          const made = button("segment", `Example ${k + 1} · ${each.tokens.toLocaleString("en")}`, choose(k));
          made.setAttribute("aria-pressed", `${k === shown}`);
          return made;
        }),
      );
    }
    drawSummary();
    drawn = drawTokens(tokens, example, {
      onSelect: (token) => showOrigin(example, token),
      rows: (token) => whyRows(example, token),
    });
    findings.replaceChildren(...example.findings.map(findingLine));
  }

  function findingLine([kind, detail, message]) {
    const made = element("div", "finding", element("span", "kind", kind), element("span", "", visible(detail)));
    const meaning = start.findings[kind];
    if (meaning) made.title = meaning;
    if (message !== null) {
      made.append(button("where", `message ${message}`, () => cardOf(message)?.scrollIntoView({ block: "center" })));
    }
    return made;
  }

  const cardOf = (message) => list.querySelector(`[data-index="${Number(message)}"]`);

  function whyRows(example, token) {
    let at = 0;
    for (const [length, reason] of example.reasons || []) {
      at += length;
      if (token < at) return [["why", reason]];
    }
    return [];
  }

  /** Mark the line of the template that wrote a token out. */
  function showOrigin(example, token) {
    const piece = drawn?.read.pieces.find((each) => token >= each.token && token < each.end);
    if (!example.authors || !piece) return;
    let at = 0;
    for (const [length, , , , line] of example.authors.runs) {
      if (piece.at < at + length) {
        editors.template.origin(line);
        return;
      }
      at += length;
    }
  }

  function showRefusal(given) {
    for (const editor of Object.values(editors)) editor.wrong(0, "");
    tell(stopsProblem, "");
    for (const problem of list.querySelectorAll(".of-message")) tell(problem, "");
    for (const tab of Object.values(tabs)) tab.button.classList.remove("is-wrong");
    for (const card of list.querySelectorAll(".is-wrong")) card.classList.remove("is-wrong");
    hideCard();
    result.classList.toggle("is-stale", Boolean(given));
    refusal.hidden = !given;
    if (!given) return;
    const { where, line, message, reason, detail } = given;
    const place = [];
    if (where === "template" && line) place.push(`template line ${line}`);
    else if (where === "policy" && line) place.push(`policy line ${line}`);
    else if (where === "row" && line) place.push(`JSON line ${line}`);
    if (message !== null && message !== undefined) place.push(`message ${message}`);
    const head = element("div", "refusal-head", element("span", "kind", reason));
    if (place.length) head.append(element("span", "place", place.join(" · ")));
    refusal.replaceChildren(head, element("p", "", visible(detail)));
    const meaning = start?.reasons[reason];
    if (meaning && !detail.includes(meaning)) refusal.append(element("p", "meaning", meaning));
    const tab = { template: "template", policy: "policy", stops: "template" }[where] ?? "conversation";
    tabs[tab].button.classList.add("is-wrong");
    if (where === "stops") tell(stopsProblem, detail);
    else if (editors[where]) editors[where].wrong(line, detail);
    const card = message === null || message === undefined ? null : cardOf(message);
    if (card) {
      card.classList.add("is-wrong");
      tell(card.querySelector(".of-message"), detail);
    }
  }

  function show(answer) {
    if (answer.refusal) {
      showRefusal(answer.refusal);
      return;
    }
    showRefusal(null);
    examples = answer.examples;
    shown = Math.min(shown, examples.length - 1);
    drawExample();
  }

  // --- each keystroke ------------------------------------------------------------------------------------

  const timings = [];
  let number = 0;
  let answered = 0;
  let running = null;
  let idle = 0;
  let wait = 0;

  function settle(mine) {
    answered = mine;
    clearTimeout(wait);
    result.classList.remove("is-waiting");
  }

  async function changed() {
    const began = performance.now();
    const mine = ++number;
    running?.abort();
    clearTimeout(idle);
    clearTimeout(wait);
    proven.textContent = "";
    if (broken.size) {
      result.classList.add("is-stale");
      settle(mine);
      return;
    }
    running = new AbortController();
    wait = setTimeout(() => result.classList.add("is-waiting"), 250);
    try {
      const answer = await ask("tokens", state(), running.signal);
      if (mine !== number || answer.superseded) return;
      const came = performance.now();
      show(answer);
      settle(mine);
      // a task behind the next frame: then it is on the screen
      requestAnimationFrame(() => setTimeout(() => record(began, came, answer)));
      if (!answer.refusal) idle = setTimeout(() => origins(mine), IDLE);
    } catch (error) {
      if (mine === number && error.name !== "AbortError") fail(error, mine);
    }
  }

  function fail(error, mine) {
    const detail =
      error instanceof Refused ? error.message : "the server does not answer: is lossmask serve still running?";
    showRefusal({ where: "server", line: null, message: null, reason: "no answer", detail });
    settle(mine);
  }

  function record(began, came, answer) {
    const total = performance.now() - began;
    timings.push({ total, answer: came - began, encode: answer.milliseconds ?? null });
    if (timings.length > REMEMBERED) timings.shift();
    const encode = answer.milliseconds === undefined ? "" : ` · ${answer.milliseconds.toFixed(0)} ms of it encoding`;
    timing.textContent = `${total.toFixed(0)} ms`;
    timing.title = `From the keystroke to tokens on the screen${encode}`;
    timing.classList.toggle("is-slow", total > 100);
  }

  /** Ask who wrote each character, and let the template be proven, once nobody types. */
  async function origins(mine) {
    try {
      const answer = await ask("origins", state(), running.signal);
      if (mine !== number || answer.superseded) return;
      if (answer.refusal) {
        showRefusal(answer.refusal);
        return;
      }
      answer.examples.forEach((example, k) => {
        examples[k].authors = example.authors;
        examples[k].reasons = example.reasons;
      });
      if (isDoctorOpen()) diagnose();
      proven.textContent = "✓ proven";
      proven.title = "Two derivations of who wrote each character agree on this template";
    } catch (error) {
      if (mine === number && error.name !== "AbortError") fail(error, mine);
    }
  }

  // --- the doctor ----------------------------------------------------------------------------------------

  const doctor = element("div", "pane doctor");
  let diagnosed = null; // template, variables and stop tokens that the pane is about
  const isDoctorOpen = () => tabs.doctor.button.getAttribute("aria-selected") === "true";

  /** Let the template be run on conversations made for that, unless what is shown is about it. */
  async function diagnose() {
    const asked = state();
    const key = JSON.stringify([asked.template, asked.stops]);
    if (key === diagnosed) return;
    diagnosed = key;
    doctor.classList.add("is-waiting");
    try {
      const answer = await ask("doctor", { ...asked, policy: "" });
      if (answer.superseded) diagnosed = null;
      else if (diagnosed === key) showDiagnosis(answer);
    } catch (error) {
      diagnosed = null;
      doctor.replaceChildren(element("p", "problem", error instanceof Refused ? error.message : "no answer"));
    }
    doctor.classList.remove("is-waiting");
  }

  function showDiagnosis({ refusal: refused, facts, renderings }) {
    if (refused) {
      doctor.replaceChildren(element("p", "problem", visible(refused.detail)));
      return;
    }
    const note = `What this template does, found out by rendering ${renderings.toLocaleString("en")} conversations.`;
    doctor.replaceChildren(element("p", "note", note), ...facts.map(factCard));
  }

  const SIGNS = { ok: "✓", note: "i", warning: "!", error: "×" };

  function factCard({ topic, verdict, sentence, values, evidence }) {
    const sign = element("span", "sign", SIGNS[verdict]);
    sign.title = verdict;
    const body = element("div", "", element("div", "topic", topic), element("p", "", visible(sentence)));
    if (values.length) body.append(element("p", "values", ...values.map((each) => element("code", "", visible(each)))));
    if (evidence.length) {
      const details = element("details", "", element("summary", "", "evidence"));
      for (const [label, excerpt] of evidence) {
        details.append(element("p", "probe", visible(label)), element("pre", "", visible(excerpt)));
      }
      body.append(details);
    }
    return element("article", `fact is-${verdict}`, sign, body);
  }

  // --- rows of data ------------------------------------------------------------------------------------

  const picker = element("div", "picker");
  picker.hidden = true;
  const place = element("span", "place");
  const asked = element("input", "");
  asked.type = "number";
  asked.min = "0";
  asked.setAttribute("aria-label", "Row");
  asked.addEventListener("change", () => goTo(Number(asked.value)));
  const before = icon("‹", "Row before", () => goTo(current - 1));
  const after = icon("›", "Next row", () => goTo(current + 1));
  picker.append(before, asked, after, place);
  let current = 0;

  async function goTo(wanted) {
    let found;
    try {
      found = await post("row", { number: wanted });
    } catch (error) {
      place.textContent = error instanceof Refused ? error.message : "the server does not answer";
      asked.value = current;
      return false;
    }
    if (found.row === null) return false;
    current = found.number;
    asked.value = current;
    before.disabled = current === 0;
    after.disabled = found.count !== null && current === found.count - 1;
    const name = visible(found.place.split("/").at(-1));
    place.textContent = found.count === null ? name : `of ${found.count.toLocaleString("en")} · ${name}`;
    place.title = found.place;
    picker.hidden = false;
    setRow(found.row);
    return true;
  }

  function setRow(text) {
    const read = readRow(text);
    editors.row.set(typeof read === "string" ? text : write(read));
    shown = 0;
    setMode(mode === "json" && row === null && start.hasChosenJson ? "json" : "messages");
    changed();
  }
  modeButtons.json.addEventListener("click", () => (start.hasChosenJson = true));
  modeButtons.messages.addEventListener("click", () => (start.hasChosenJson = false));

  // --- copies ---------------------------------------------------------------------------------------------

  const dialog = element("dialog", "copy");

  async function copy(what, made) {
    const answer = await ask("copies", state());
    if (answer.superseded) return;
    if (answer.refusal) {
      showRefusal(answer.refusal);
      return;
    }
    const text = answer[what];
    try {
      await navigator.clipboard.writeText(text);
      const label = made.textContent;
      made.textContent = "✓ copied";
      setTimeout(() => (made.textContent = label), 1200);
    } catch {
      const box = area("To copy", text, () => {}); // no clipboard here: over plain http from afar
      dialog.replaceChildren(box, button("lm-button", "Close", () => dialog.close()));
      dialog.showModal();
      box.select();
    }
  }

  function copyButton(what, label) {
    const made = button("lm-button", label, () => copy(what, made));
    return made;
  }

  function download() {
    const url = URL.createObjectURL(new Blob([editors.template.value], { type: "text/plain" }));
    const link = element("a", "");
    link.href = url;
    link.download = "chat_template.jinja";
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  // --- the page --------------------------------------------------------------------------------------------

  function templatePane() {
    const presets = choice(
      "Templates to begin with",
      [["", "Begin with…"], ["own", "as at the start"], ...start.styles.map((style, k) => [`${k}`, style.name])],
      (value) => {
        if (value === "") return;
        const style = value === "own" ? null : start.styles[Number(value)];
        editors.template.set(style ? style.source : start.template);
        stops.value = style?.stop ?? "";
        presets.value = "";
        changed();
      },
    );
    const note = element("span", "note", "further stop tokens, one a line");
    return element(
      "div",
      "pane is-code",
      element("div", "pane-head", presets, button("lm-button", "Download", download)),
      editors.template.element,
      element("div", "field stops", element("div", "field-head", note), stops, stopsProblem),
    );
  }

  function policyPane() {
    const presets = choice(
      "Policies to begin with",
      [["", "Begin with…"], ["own", "as at the start"], ...start.policies.map((each, k) => [`${k}`, each.name])],
      (value) => {
        if (value === "") return;
        editors.policy.set(value === "own" ? start.policy : start.policies[Number(value)].text);
        presets.value = "";
        changed();
      },
    );
    editors.policy.text.placeholder = "# every assistant message\nweights:\n  prompt: 0.1";
    const note = element("p", "note", "What to train on, as YAML. Empty: every assistant message.");
    return element("div", "pane is-code", element("div", "pane-head", presets), note, editors.policy.element);
  }

  async function begin() {
    if (!secret) throw new Refused("open the address that lossmask serve printed: it ends with #…");
    start = await ask("start", {});
    const tokenizer = element("span", "tokenizer", visible(start.tokenizer.split("/").slice(-2).join("/")));
    tokenizer.title = start.tokenizer;
    const bar = element(
      "header",
      "bar",
      element("span", "brand", "lossmask"),
      tokenizer,
      picker,
      element("span", "space"),
      proven,
      timing,
      copyButton("row", "Copy row"),
      copyButton("python", "Copy Python"),
      themeButton(),
    );
    const tabBar = element(
      "div",
      "tabs",
      element(
        "div",
        "tab-list",
        makeTab("conversation", "Conversation", conversation),
        makeTab("template", "Template", templatePane()),
        makeTab("policy", "Policy", policyPane()),
        makeTab("doctor", "Doctor", doctor),
      ),
      modes,
    );
    tabBar.firstChild.setAttribute("role", "tablist");
    const edit = element("section", "edit", tabBar, panes);
    app.replaceChildren(bar, element("main", "live", edit, result), dialog);
    editors.template.set(start.template);
    editors.policy.set(start.policy);
    openTab("conversation");
    if (!(await goTo(0))) setRow(start.row);
  }

  lossmask.live = {
    timings,
    isSettled: () => number > 0 && answered === number,
    hasOrigins: () => examples.length > 0 && examples.every((example) => example.authors),
    example: () => examples[shown],
  };

  begin().catch((error) => {
    const known = error instanceof Refused;
    const text = known ? error.message : "the server does not answer: is lossmask serve still running?";
    app.replaceChildren(element("p", "nothing", text));
    if (!known) throw error;
  });
})();
