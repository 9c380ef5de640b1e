// Draws the page of diff_page.py.
(() => {
  "use strict";
  const { element, visible, plural, drawTokens, themeButton } = lossmask;
  const found = lossmask.data();
  const number = (count) => count.toLocaleString("en");
  const CLASS = { only_a: "ld-lost", only_b: "ld-added" };
  const kindOf = (kinds) => ["only_a", "only_b"].find((kind) => kinds.includes(kind)) || kinds[0];

  /** Name a kind of difference, underlined as the tokens are that have it. */
  function badge(kind) {
    return element("span", `ld-kind ${CLASS[kind] || "ld-other"}`, found.words[kind]);
  }

  function table(head, rows) {
    const made = element("table", "ld-table");
    made.append(element("tr", "", ...head.map((each) => element("th", "", each))), ...rows);
    return made;
  }

  const cell = (kind, ...children) => element("td", kind, ...children);

  function card(count, what) {
    return element("div", "ld-card", element("b", "", number(count)), element("span", "", what));
  }

  function account() {
    const cards = element("div", "ld-cards", card(found.rows, "rows"));
    cards.append(card(found.same, "the same on both sides"), card(found.differing, "differ"));
    const { a, b } = found;
    if (found.only_a) cards.append(card(found.only_a, visible(`rejected by ${b.name} only`)));
    if (found.only_b) cards.append(card(found.only_b, visible(`rejected by ${a.name} only`)));
    if (found.neither) cards.append(card(found.neither, "rejected by both"));
    ["A", "B"].forEach((side, k) => {
      const share = found.tokens[k] ? found.supervised_tokens[k] / found.tokens[k] : 0;
      const of = `of ${number(found.tokens[k])} tokens in the loss of ${side}`;
      cards.append(card(found.supervised_tokens[k], `${of} (${(100 * share).toFixed(1)}%)`));
    });
    return cards;
  }

  function kinds() {
    const rows = Object.entries(found.kinds).map(([kind, counts]) =>
      element(
        "tr",
        "",
        cell("", badge(kind)),
        cell("ld-number", number(counts.rows)),
        cell("ld-number", counts.tokens ? number(counts.tokens) : ""),
      ),
    );
    return rows.length ? table(["difference", "rows", "tokens"], rows) : null;
  }

  function rejected() {
    const rows = ["a", "b"].flatMap((side) =>
      Object.entries(found[`rejected_${side}`]).map(([reason, tally]) =>
        element(
          "tr",
          "",
          cell("", visible(found[side].name)),
          cell("ld-number", number(tally.rows)),
          cell("", visible(reason)),
          cell("ld-mono", visible(tally.first)),
        ),
      ),
    );
    return rows.length ? table(["rejected by", "rows", "reason", "first"], rows) : null;
  }

  /** Return for each token of a side how it differs, and which token of the other it stands for. */
  function marksOf(pair, side) {
    const marks = new Map();
    for (const change of pair.changes) {
      const [first, end] = change[`tokens_${side}`];
      for (let token = first; token < end; token++) marks.set(token, kindOf(change.kinds));
    }
    return marks;
  }

  function twinOf(pair, side, token) {
    const [mine, other] = side === "a" ? [0, 2] : [2, 0];
    for (const segment of pair.segments) {
      if (token < segment[mine] || token >= segment[mine + 1]) continue;
      if (segment[other] === segment[other + 1]) return -1;
      const at = segment[other] + token - segment[mine];
      return Math.min(at, segment[other + 1] - 1);
    }
    return -1;
  }

  function drawSide(pair, side, drawn) {
    const example = pair[side];
    const about = found[side];
    const letter = side.toUpperCase();
    const name = about.name === letter ? letter : `${letter} · ${about.name}`;
    const made = element("section", "", element("h3", "", visible(name)));
    if (!example) {
      made.append(element("div", "ld-none", "has no such example"));
      return made;
    }
    const counts = `${plural(example.tokens, "token")}, ${number(example.supervised)} in the loss`;
    made.firstChild.append(` · ${counts}`);
    const box = element("div", "");
    made.append(box);
    const marks = marksOf(pair, side);
    const decorate = (piece, { token, end }) => {
      for (let each = token; each < end; each++) {
        if (marks.has(each)) piece.classList.add(CLASS[marks.get(each)] || "ld-other");
      }
    };
    const rows = (token) => (marks.has(token) ? [["differs", found.words[marks.get(token)]]] : []);
    const onSelect = (token) => {
      document.querySelectorAll(".ld-twin").forEach((each) => each.classList.remove("ld-twin"));
      const twin = twinOf(pair, side, token);
      const other = drawn[side === "a" ? "b" : "a"];
      if (twin >= 0 && other) other.elementOf(twin).classList.add("ld-twin");
    };
    drawn[side] = drawTokens(box, example, { table: found.table, decorate, rows, onSelect });
    return made;
  }

  const range = ([first, end]) =>
    first === end ? "" : end === first + 1 ? `${first}` : `${first}–${end - 1}`;

  function changeRow(pair, change, drawn) {
    const same = change.text_a === change.text_b;
    const text = same || !change.text_b ? change.text_a : change.text_b;
    const both = !same && change.text_a && change.text_b;
    const made = element(
      "tr",
      "ld-pick",
      cell("ld-number", range(change.tokens_a)),
      cell("ld-number", range(change.tokens_b)),
      cell("", ...change.kinds.map(badge)),
      cell("", visible(change.what)),
      cell("ld-number", `${change.weights_a.join(", ")} → ${change.weights_b.join(", ")}`),
      cell("ld-mono", visible(both ? `${change.text_a} → ${change.text_b}` : text)),
    );
    made.addEventListener("click", () => {
      const side = change.tokens_a[0] < change.tokens_a[1] && drawn.a ? "a" : "b";
      drawn[side]?.select(change[`tokens_${side}`][0]);
    });
    return made;
  }

  function drawRow(row) {
    const said = row.kinds.length ? row.kinds.map(badge) : ["no difference"];
    const made = element(
      "article",
      "ld-row",
      element("header", "", element("b", "", visible(row.place)), ...said),
    );
    for (const pair of row.pairs) {
      const drawn = {};
      const sides = ["a", "b"].map((side) => drawSide(pair, side, drawn));
      made.append(element("div", "ld-pair", ...sides));
      if (!pair.changes.length) continue;
      const rows = pair.changes.map((change) => changeRow(pair, change, drawn));
      const head = ["tokens of A", "of B", "difference", "what", "weight", "text"];
      made.append(element("div", "ld-changes", table(head, rows)));
    }
    return made;
  }

  const sides = element("dl", "ld-sides");
  for (const side of ["a", "b"]) {
    const { name, about } = found[side];
    const letter = side.toUpperCase();
    sides.append(element("dt", "", letter));
    sides.append(element("dd", "", visible(name === letter ? about : `${name}: ${about}`)));
  }
  const main = element(
    "main",
    "",
    element("div", "ld-head", element("h1", "", "lossmask diff"), themeButton()),
    sides,
    account(),
  );
  if (found.summary.length) {
    const items = found.summary.map((each) => element("li", "", visible(each)));
    main.append(element("ul", "ld-said", ...items));
  }
  main.append(...[kinds(), rejected()].filter(Boolean));
  if (found.shown.length) {
    const all = found.differing > found.shown.length;
    const what = all ? `The first ${found.shown.length} of ${number(found.differing)}` : "The";
    main.append(element("h2", "", `${what} rows that differ`));
    main.append(...found.shown.map(drawRow));
  }
  document.getElementById("app").append(main);
})();
