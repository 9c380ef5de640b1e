// Draws a report that reporting.py made: figures, findings, rejected rows, examples.
(() => {
  "use strict";
  const { element, svg, button, plural, textOf, drawTokens, visible } = lossmask;
  const report = lossmask.data();
  const app = document.getElementById("app");
  const number = (value) => value.toLocaleString("en");
  const percent = (part, whole, digits = 1) =>
    whole ? `${((100 * part) / whole).toFixed(digits)}%` : "–";
  /** Make text lower case, each character as long as it was. */
  function fold(text) {
    const lower = text.toLowerCase();
    if (lower.length === text.length) return lower;
    const folded = (character) => character.toLowerCase();
    return [...text].map((c) => (folded(c).length === c.length ? folded(c) : c)).join("");
  }
  const short = (text, length) => {
    const characters = [...text];
    return characters.length > length ? `${characters.slice(0, length - 1).join("")}…` : text;
  };

  // --- overview -------------------------------------------------------------------------------

  function figure(label, value, note, kind = "") {
    return element(
      "div",
      `figure ${kind}`,
      element("div", "figure-label", label),
      element("div", "figure-value", value),
      element("div", "figure-note", note),
    );
  }

  function overview() {
    const f = report.audit;
    const lengths = f.statistics.length;
    const stopped = Math.round((f.stop_rate ?? 0) * f.turns);
    const cards = element(
      "div",
      "figures",
      figure("rows", number(f.rows_in), `${number(f.rows_kept)} kept`),
      figure(
        "rejected",
        number(f.rows_rejected),
        percent(f.rows_rejected, f.rows_in) + " of the rows",
        f.rows_rejected ? "is-bad" : "is-good",
      ),
      figure(
        "examples",
        number(f.examples),
        f.rows_expanded ? `${plural(f.rows_expanded, "row")} became several` : "one a row",
      ),
      figure(
        "tokens",
        number(f.tokens),
        f.examples ? `median ${number(lengths.p50)} an example, longest ${number(lengths.max)}` : "",
      ),
      figure(
        "supervised",
        percent(f.supervised_tokens, f.tokens),
        `${plural(f.supervised_tokens, "token")} in the loss`,
        "is-trained",
      ),
      figure(
        "turns that stop",
        percent(stopped, f.turns),
        `${number(stopped)} of ${plural(f.turns, "turn")} train their stop token`,
        stopped < f.turns ? "is-bad" : "is-good",
      ),
    );
    if (f.repeated_tokens) {
      cards.append(
        figure(
          "repeated context",
          percent(f.repeated_tokens, f.tokens),
          `${plural(f.repeated_tokens, "token")} of prompts that history=expand repeats`,
        ),
      );
    }
    if (f.lost.tokens) {
      cards.append(
        figure("truncated", number(f.lost.tokens), "tokens do not fit the longest example", "is-bad"),
      );
    }
    return cards;
  }

  /** Draw what the tokens are part of, and how many of each part are in the loss. */
  function parts() {
    const found = Object.entries(report.audit.statistics.parts).filter(([, each]) => each.tokens);
    const total = found.reduce((sum, [, each]) => sum + each.tokens, 0);
    const order = ["prompt", "scaffold", "reasoning", "content", "tool_calls", "stop"];
    found.sort(([a], [b]) => order.indexOf(a) - order.indexOf(b));
    const bar = element("div", "parts-bar");
    const rows = element("div", "parts-rows");
    for (const [part, { tokens, supervised_tokens: trained }] of found) {
      const piece = element("span", `part is-${part}`);
      piece.style.flexGrow = tokens;
      piece.title = `${part}: ${plural(tokens, "token")}`;
      const inLoss = element("span", "in-loss");
      inLoss.style.width = `${(100 * trained) / tokens}%`;
      piece.append(inLoss);
      bar.append(piece);
      rows.append(
        element(
          "div",
          "",
          element("span", `swatch is-${part}`),
          element("b", "", part.replace("_", " ")),
          element("span", "", `${number(tokens)} · ${percent(tokens, total)}`),
          element("span", "trained-share", trained ? `${percent(trained, tokens)} in the loss` : "not in the loss"),
        ),
      );
    }
    return element(
      "figure",
      "plot parts",
      element("figcaption", "", "what the tokens are part of; the lower stripe is what is in the loss"),
      bar,
      rows,
    );
  }

  function settings() {
    const list = element("dl", "settings");
    for (const [name, value] of report.setting) {
      list.append(element("div", "", element("dt", "", name), element("dd", "", visible(value))));
    }
    return list;
  }

  // --- histograms -----------------------------------------------------------------------------

  const WIDE = 340;
  const HIGH = 110;

  /** Draw bars; a click on one filters the examples where the histogram says by what. */
  function histogram(title, bars, { unit = "", onBar = null } = {}) {
    const { edges, counts } = bars;
    const most = Math.max(...counts, 1);
    const total = counts.reduce((sum, count) => sum + count, 0);
    const width = WIDE / counts.length;
    const picture = svg("svg", {
      viewBox: `0 0 ${WIDE} ${HIGH + 18}`,
      class: "bars",
      role: "img",
      "aria-label": title,
    });
    picture.append(svg("line", { x1: 0, x2: WIDE, y1: HIGH + 0.5, y2: HIGH + 0.5, class: "axis" }));
    const step = edges[1] - edges[0];
    const isOpen = counts.length > 1 && edges[counts.length] - edges[counts.length - 1] !== step;
    counts.forEach((count, k) => {
      const high = count ? Math.max((count / most) * (HIGH - 8), 1.5) : 0;
      const range = isOpen && k === counts.length - 1 ? `${number(edges[k])} and more` : `${number(edges[k])}–${number(edges[k + 1])}`;
      const bar = svg(
        "g",
        { class: onBar && count ? "bar is-link" : "bar" },
        svg("rect", { x: k * width, y: 0, width, height: HIGH, class: "behind" }),
        svg("rect", { x: k * width + 0.75, y: HIGH - high, width: Math.max(width - 1.5, 0.5), height: high, rx: 1.5, class: "front" }),
      );
      const tip = svg("title", {});
      tip.textContent = `${range}${unit}: ${plural(count, "example")} (${percent(count, total)})`;
      bar.append(tip);
      if (onBar && count) bar.addEventListener("click", () => onBar(edges[k], edges[k + 1]));
      picture.append(bar);
    });
    const labels = [0, Math.floor(counts.length / 2), counts.length - (edges.length > 2 ? 1 : 0)];
    labels.forEach((k, place) => {
      const label = svg("text", {
        x: place === 0 ? 0 : place === 2 ? WIDE : k * width,
        y: HIGH + 14,
        "text-anchor": ["start", "middle", "end"][place],
      });
      const edge = edges[place < 2 ? k : isOpen ? counts.length - 1 : counts.length];
      label.textContent = (place === 2 && isOpen ? "≥ " : "") + number(edge) + unit;
      picture.append(label);
    });
    return element("figure", "plot", element("figcaption", "", title), picture);
  }

  // --- findings and rejected rows ---------------------------------------------------------------

  const howOften = ({ rows, share, count }) =>
    rows === null ? `${number(count)} times` : `${plural(rows, "row")} · ${percent(share, 1)}`;
  const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}${/[.?!]$/.test(text) ? "" : "."}`;

  function tallies(list, { onShow = null } = {}) {
    const table = element("div", "tallies");
    for (const [kind, tally] of Object.entries(list)) {
      const found = onShow ? report.examples.filter((e) => hasFinding(e, kind)).length : 0;
      const places = element("ul", "places");
      for (const { place, detail } of onShow ? tally.examples : []) {
        places.append(element("li", "", visible(place ? `${place}: ${detail}` : detail)));
      }
      table.append(
        element(
          "article",
          `tally is-${tally.severity}`,
          element(
            "header",
            "",
            element("span", `severity is-${tally.severity}`, tally.severity),
            element("code", "kind", kind),
            element("span", "rows", howOften(tally)),
          ),
          element("p", "meaning", `${sentence(tally.meaning)} ${tally.effect}`),
          element("p", "fix", element("b", "", "Fix: "), tally.fix),
          places.children.length ? places : null,
          found ? button("lm-button show", `Show ${plural(found, "example")}`, () => onShow(kind)) : null,
        ),
      );
    }
    return table;
  }

  function rejectedRows() {
    const list = element("div", "rejected");
    for (const row of report.rejected) {
      const where = row.message === null ? "" : ` · message ${row.message}`;
      list.append(
        element(
          "details",
          "rejection",
          element(
            "summary",
            "",
            element("code", "kind", row.reason),
            element("span", "place", `${visible(row.place)}${where}`),
            element("span", "said", visible(row.detail)),
          ),
          element("pre", "", visible(row.text)),
        ),
      );
    }
    return list;
  }

  // --- examples -------------------------------------------------------------------------------

  const severityOf = (kind) => report.audit.findings[kind]?.severity ?? "note";
  const SEVERITIES = ["error", "warning", "note"];
  const worstOf = (example) =>
    SEVERITIES.find((each) => example.findings.some(([kind]) => severityOf(kind) === each));
  const hasFinding = (example, kind) => example.findings.some(([found]) => found === kind);
  const examples = report.examples.map((example, index) => ({
    ...example,
    index,
    text: textOf(example, report.table),
  }));
  for (const example of examples) example.folded = fold(example.text);
  const filter = { text: "", finding: "", role: "", least: 0, most: Infinity };
  let matching = examples;
  let current = -1; // index in examples

  function matches(example) {
    return (
      (!filter.text || example.folded.includes(filter.text)) &&
      (!filter.finding || hasFinding(example, filter.finding)) &&
      (!filter.role || example.roles.includes(filter.role)) &&
      example.tokens >= filter.least &&
      example.tokens < filter.most
    );
  }

  const name = (example) =>
    `row ${number(example.row)}${example.of > 1 ? ` · ${example.number} of ${example.of}` : ""}`;

  /** Return the beginning of what the first user said, or of the text. */
  function preview(example) {
    const user = example.roles.indexOf("user");
    let token = 0;
    let said = "";
    const messages = [];
    for (const [count, message] of example.messages) for (let k = 0; k < count; k++) messages.push(message);
    for (const piece of example.pieces) {
      const [text, ids] = report.table[piece];
      const count = Array.isArray(ids) ? ids.length : 1;
      if (user < 0 || (count && messages[token] === user)) said += text;
      token += count;
      if (said.length > 160) break;
    }
    return short((said || example.text).replace(/\s+/g, " ").trim(), 110);
  }

  const list = element("div", "list");
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Examples");
  const items = examples.map((example) => {
    const fill = element("span", "");
    fill.style.width = `${(100 * example.supervised) / Math.max(example.tokens, 1)}%`;
    const made = button("item", "", () => open(example.index, true));
    made.setAttribute("role", "option");
    made.append(
      element(
        "span",
        "item-head",
        element("b", "", name(example)),
        example.findings.length ? element("span", `dot is-${worstOf(example)}`, "●") : null,
        element("span", "item-tokens", number(example.tokens)),
      ),
      element("span", "item-text", visible(preview(example))),
      element("span", "share", fill),
    );
    return made;
  });

  const count = element("div", "count");
  count.setAttribute("role", "status");
  const detail = element("article", "detail");
  detail.setAttribute("aria-live", "off");

  function refresh() {
    matching = examples.filter(matches);
    list.replaceChildren(...matching.map((example) => items[example.index]));
    if (!matching.length) list.append(element("p", "nothing", "No example that is shown matches."));
    count.textContent =
      matching.length === examples.length
        ? plural(examples.length, "example")
        : `${number(matching.length)} of ${plural(examples.length, "example")}`;
    clear.hidden = matching.length === examples.length && !isFiltered();
    if (!matching.some((example) => example.index === current)) {
      if (matching.length) open(matching[0].index);
      else closeDetail();
    } else open(current);
  }

  const isFiltered = () =>
    filter.text || filter.finding || filter.role || filter.least || filter.most < Infinity;

  function closeDetail() {
    current = -1;
    lossmask.hideCard();
    detail.replaceChildren();
  }

  /** Mark the pieces that hold what is searched for. */
  function hits(example) {
    const found = [];
    if (!filter.text) return found;
    for (let at = example.folded.indexOf(filter.text); at >= 0; ) {
      found.push([at, at + filter.text.length]);
      at = example.folded.indexOf(filter.text, at + filter.text.length);
    }
    return found;
  }

  function open(index, goThere = false) {
    lossmask.hideCard();
    items[current]?.removeAttribute("aria-selected");
    current = index;
    const example = examples[index];
    items[index].setAttribute("aria-selected", "true");
    keepInView(items[index]);
    const place = matching.findIndex((each) => each.index === index);
    const step = (by, sign, label) => {
      const made = button("lm-button", sign, () => move(by));
      made.setAttribute("aria-label", label);
      made.title = label;
      made.disabled = !matching[place + by];
      return made;
    };
    const notes = element("ul", "notes");
    for (const [kind, said, message] of example.findings) {
      const where = message >= 0 ? `message ${message}: ` : "";
      notes.append(element("li", `is-${severityOf(kind)}`, element("code", "kind", kind), ` ${where}${visible(said)}`));
    }
    const tokens = element("div", "tokens");
    detail.replaceChildren(
      element(
        "header",
        "",
        element("h3", "", name(example)),
        element("span", "place", visible(example.place)),
        element(
          "span",
          "facts",
          `${plural(example.tokens, "token")}, ${number(example.supervised)} supervised (${percent(example.supervised, example.tokens)})`,
        ),
        element("span", "steps", step(-1, "←", "Previous example (k)"), step(1, "→", "Next example (j)")),
      ),
      notes,
      tokens,
    );
    const ranges = hits(example);
    let at = 0;
    const drawn = drawTokens(tokens, example, {
      table: report.table,
      decorate: (made, piece) => {
        const end = at + piece.text.length;
        if (ranges.some(([first, behind]) => first < end && behind > at)) made.classList.add("hit");
        at = end;
      },
    });
    if (goThere && getComputedStyle(detail.parentElement).display === "block") {
      detail.scrollIntoView({ block: "start" });
    }
    lossmask.report = { example, drawn };
  }

  /** Scroll the list, not the page. */
  function keepInView(item) {
    const top = item.offsetTop - list.offsetTop;
    if (top < list.scrollTop) list.scrollTop = top;
    const bottom = top + item.offsetHeight - list.clientHeight;
    if (bottom > list.scrollTop) list.scrollTop = bottom;
  }

  function move(by) {
    const place = matching.findIndex((example) => example.index === current);
    const next = matching[place + by];
    if (!next) return;
    open(next.index);
    const top = detail.getBoundingClientRect().top;
    if (top < 0 || top > window.innerHeight * 0.6) detail.scrollIntoView({ block: "start" });
  }

  /** Scroll to the next trained tokens below, or else to the first. */
  function goToTrained() {
    const { read, elementOf } = lossmask.report.drawn;
    const starts = [...read.weights.keys()].filter(
      (token) => read.weights[token] && !read.weights[token - 1],
    );
    const tops = starts.map((token) => elementOf(token).getBoundingClientRect().top);
    const next = tops.findIndex((top) => top > window.innerHeight / 2 + 30);
    if (starts.length) elementOf(starts[Math.max(next, 0)]).scrollIntoView({ block: "center" });
  }

  // --- filters --------------------------------------------------------------------------------

  const search = element("input", "search");
  search.type = "search";
  search.placeholder = "Search the text  ( / )";
  search.setAttribute("aria-label", "Search the text of the examples");
  search.addEventListener("input", () => {
    filter.text = fold(search.value);
    refresh();
  });

  function choice(label, values, chosen) {
    const made = element("select", "");
    made.setAttribute("aria-label", label);
    made.append(new Option(label, ""), ...values.map((value) => new Option(value, value)));
    made.addEventListener("change", () => {
      chosen(made.value);
      refresh();
    });
    return made;
  }

  const kinds = [...new Set(examples.flatMap((e) => e.findings.map(([kind]) => kind)))].sort();
  const roles = [...new Set(examples.flatMap((e) => e.roles))].sort();
  const byFinding = choice("any finding", kinds, (value) => (filter.finding = value));
  const byRole = choice("any role", roles, (value) => (filter.role = value));

  function limit(label, changed) {
    const made = element("input", "limit");
    made.type = "number";
    made.min = 0;
    made.placeholder = label;
    made.setAttribute("aria-label", label);
    made.addEventListener("input", () => {
      changed(made.value);
      refresh();
    });
    return made;
  }

  const least = limit("tokens from", (value) => (filter.least = Number(value) || 0));
  const most = limit("tokens to", (value) => (filter.most = value === "" ? Infinity : Number(value) + 1));
  const clear = button("lm-button", "Clear", () => {
    search.value = byFinding.value = byRole.value = least.value = most.value = "";
    Object.assign(filter, { text: "", finding: "", role: "", least: 0, most: Infinity });
    refresh();
  });

  function showFinding(kind) {
    clear.click();
    byFinding.value = filter.finding = kind;
    refresh();
    document.getElementById("examples").scrollIntoView();
  }

  function showLengths(first, behind) {
    clear.click();
    filter.least = first;
    filter.most = behind;
    least.value = first;
    most.value = behind - 1;
    refresh();
    document.getElementById("examples").scrollIntoView();
  }

  // --- keyboard -------------------------------------------------------------------------------

  const KEYS = [
    ["j  or  →", "next example"],
    ["k  or  ←", "previous example"],
    ["n", "to the next trained tokens"],
    ["/", "search"],
    ["t", "into the tokens; ← and → go through them"],
    ["Esc", "leave search or tokens"],
    ["?", "this help"],
  ];
  const help = element("dialog", "help");
  const keys = element("dl", "");
  for (const [key, meaning] of KEYS) {
    keys.append(element("dt", "", element("kbd", "", key)), element("dd", "", meaning));
  }
  help.append(
    element("h2", "", "Keys"),
    keys,
    element("p", "", "Point at a token, or tap it, to see its id, bytes, weight, and who wrote it."),
    button("lm-button", "Close", () => help.close()),
  );

  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || help.open) return;
    const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape" && (isTyping || event.target.closest?.(".lm-tokens"))) {
      event.target.blur();
      return;
    }
    if (isTyping) return;
    const actions = {
      j: () => move(1),
      k: () => move(-1),
      ArrowRight: () => move(1),
      n: () => goToTrained(),
      ArrowLeft: () => move(-1),
      "/": () => {
        document.getElementById("examples").scrollIntoView();
        search.focus({ preventScroll: true });
        search.select();
      },
      t: () => detail.querySelector(".lm-tokens")?.focus(),
      "?": () => help.showModal(),
    };
    if (!Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    actions[event.key]();
  });

  // --- the page -------------------------------------------------------------------------------

  function section(id, title, note, ...children) {
    const made = element("section", "", element("h2", "", title), ...children);
    made.id = id;
    if (note) made.querySelector("h2").append(element("span", "note", note));
    return made;
  }

  function legend() {
    const part = (kind, text) => element("span", "", element("span", `lm-t ${kind}`, "token"), ` ${text}`);
    const odd = element("span", "lm-t lm-trained lm-odd", "token");
    return element(
      "div",
      "legend",
      element("span", "", odd, " trained, deeper = more weight"),
      part("lm-stop lm-trained", "stop token, trained"),
      part("lm-negative", "trained away from"),
      part("lm-plain", "context, not trained"),
    );
  }

  const links = element("nav", "links");
  links.setAttribute("aria-label", "Sections");
  const main = element("main", "");
  const foundKinds = Object.keys(report.audit.findings).length;
  const shown = [
    section(
      "overview",
      "Overview",
      "",
      overview(),
      element(
        "div",
        "plots",
        ...report.histograms.map(({ title, bars, unit, filters }) =>
          histogram(title, bars, { unit, onBar: filters ? showLengths : null }),
        ),
      ),
      parts(),
      settings(),
    ),
    report.audit.rows_kept
      ? section(
          "findings",
          "Findings",
          foundKinds ? number(foundKinds) : "",
          foundKinds
            ? tallies(report.audit.findings, { onShow: showFinding })
            : element("p", "all-good", "Nothing was found: every row is trained as it is."),
        )
      : null,
    report.audit.rows_rejected
      ? section(
          "rejected",
          "Rejected rows",
          number(report.audit.rows_rejected),
          tallies(report.audit.rejections),
          rejectedRows(),
        )
      : null,
    examples.length
      ? section(
          "examples",
          "Examples",
          "",
          element("p", "sample", report.sample),
          element("div", "filters", search, byFinding, byRole, least, most, clear, count),
          legend(),
          element("div", "panes", list, detail),
        )
      : null,
  ].filter(Boolean);
  for (const each of shown) {
    const link = element("a", "", each.querySelector("h2").firstChild.textContent.split(" ")[0]);
    link.href = `#${each.id}`;
    links.append(link);
  }
  const helpButton = button("lm-button", "?", () => help.showModal());
  helpButton.setAttribute("aria-label", "Help: keys");
  main.append(...shown);
  app.append(
    element(
      "header",
      "top",
      element("div", "brand", element("span", "mark", "▮"), "lossmask"),
      element("h1", "", visible(report.title)),
      links,
      element("div", "tools", helpButton, lossmask.themeButton()),
    ),
    main,
    element("footer", "", `Made by lossmask ${report.version}. This page is one file and asks nothing of the network.`),
    help,
  );
  if (examples.length) refresh();
})();
