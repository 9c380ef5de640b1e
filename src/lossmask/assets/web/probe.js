// Draws a probe that probe_page.py made: figures, tokens by kind, examples by their loss.
(() => {
  "use strict";
  const { element, button, drawTokens, textOf, visible, plural } = lossmask;
  const probe = lossmask.data();
  const { findings, before, levels } = probe;
  const number = (value) => value.toLocaleString("en");
  const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;
  const nats = (value, digits = 3) => value.toFixed(digits);
  const levelOf = (loss) => levels.filter((level) => loss >= level).length;
  const shown = (text) => visible(text).replace(/^ | $/g, "·") || "∅";
  const short = (text, length) => {
    const characters = [...text];
    return characters.length > length ? `${characters.slice(0, length - 1).join("")}…` : text;
  };

  function figure(label, value, note, kind = "") {
    return element(
      "div",
      `figure ${kind}`,
      element("div", "figure-label", label),
      element("div", "figure-value", value),
      element("div", "figure-note", note),
    );
  }

  function figures() {
    const share = findings.learned_tokens / findings.tokens;
    const without = findings.loss_without;
    const was = (value) => (before ? `was ${value} before` : null);
    return element(
      "div",
      "figures",
      figure(
        "loss",
        nats(findings.loss),
        was(nats(before?.loss ?? 0)) ?? `nats a token, of ${plural(findings.tokens, "token")}`,
      ),
      figure(
        "ranked first",
        percent(findings.first),
        was(percent(before?.first ?? 0)) ?? "of the tokens in the loss",
      ),
      figure(
        "learned at once",
        percent(share),
        `of the tokens, with ${percent(findings.learned_loss_share)} of the loss`,
        "is-good",
      ),
      figure(
        "loss without these",
        without === null ? "–" : nats(without),
        without === null ? "there are no others" : "of all other tokens",
      ),
      figure(
        `${percent(probe.carried, 0)} of the loss`,
        percent(findings.carried_by),
        "of the tokens have it, place by place",
        "is-bad",
      ),
    );
  }

  // --- how the loss is spread -----------------------------------------------------------------

  function stack(values) {
    const total = values.reduce((sum, value) => sum + value, 0) || 1;
    const bar = element("div", "stack");
    values.forEach((value, level) => {
      if (!value) return;
      const share = value / total;
      const part = element("span", `l${level}`, share > 0.05 ? percent(share, 0) : "");
      part.style.flexGrow = `${share}`;
      part.style.flexBasis = "0";
      part.title = `${rangeOf(level)} nats: ${percent(share, 2)}`;
      bar.append(part);
    });
    return bar;
  }

  function rangeOf(level) {
    const low = level ? levels[level - 1] : 0;
    return level < levels.length ? `${low}–${levels[level]}` : `${low}+`;
  }

  function scale() {
    const made = element("div", "levels", "loss");
    for (let level = 0; level <= levels.length; level++) {
      made.append(element("span", `l${level}`, rangeOf(level)));
    }
    made.append("nats");
    return made;
  }

  function changeScale() {
    const kinds = ["better-3", "better-2", "better-1", "same", "worse-1", "worse-2", "worse-3"];
    const labels = ["−3", "−1", "−0.1", "0", "+0.1", "+1", "+3"];
    const made = element("div", "levels", "change of the loss");
    kinds.forEach((kind, k) => made.append(element("span", kind, labels[k])));
    made.append("nats and beyond");
    return made;
  }

  function spread() {
    return element(
      "div",
      "card spread",
      element("div", "", "tokens"),
      stack(probe.spread[0]),
      element("div", "", "loss"),
      stack(probe.spread[1]),
      element("div", ""),
      scale(),
    );
  }

  // --- tables ---------------------------------------------------------------------------------

  function table(headers, rows) {
    const head = element("tr", "", ...headers.map((header) => element("th", "", header)));
    const body = element("tbody", "", ...rows);
    return element("div", "card kinds", element("table", "", element("thead", "", head), body));
  }

  const row = (kind, cells) =>
    element("tr", kind, ...cells.map((cell) => element("td", "", cell)));

  function parts() {
    const of = (name, part, earlier, kind = "") => {
      const cells = [name, number(part.tokens), nats(part.loss, 4), percent(part.first)];
      if (before) {
        cells.splice(2, 0, nats(earlier.loss, 4));
        cells.splice(4, 0, percent(earlier.first));
      }
      return row(kind, cells);
    };
    const rows = Object.entries(findings.parts).map(([name, part]) =>
      of(name, part, before?.parts[name]),
    );
    rows.push(of("all in the loss", findings, before, "total"));
    const headers = before
      ? ["part", "tokens", "loss before", "loss", "first before", "first"]
      : ["part", "tokens", "loss", "ranked first"];
    return table(headers, rows);
  }

  function kinds(list, withBar) {
    const most = Math.max(...list.map((kind) => kind.loss_share), 1e-9);
    return table(
      ["token", "id", "places", "mean loss", "first", "of the loss", ...(withBar ? [""] : [])],
      list.map((kind) => {
        const token = element("span", `lm-t l${levelOf(kind.mean_loss)}`, short(shown(kind.text), 24));
        const name = element("span", "", token);
        if (kind.is_stop) name.append(element("small", "", " stop"));
        const cells = [
          name,
          `${kind.token}`,
          number(kind.count),
          nats(kind.mean_loss, 4),
          percent(kind.first),
          percent(kind.loss_share),
        ];
        if (withBar) cells.push(share(kind.loss_share / most));
        return row("", cells);
      }),
    );
  }

  function share(part) {
    const filled = element("span", "");
    filled.style.width = percent(part);
    return element("span", "share", filled);
  }

  function section(title, note, ...children) {
    const heading = element("h2", "", title);
    if (note) heading.append(element("span", "note", note));
    return element("section", "", heading, ...children);
  }

  function learned() {
    const rule = findings.criterion;
    const children = [
      element(
        "p",
        "rule",
        `Mean loss below ${rule.mean_loss}, ranked first in at least ${percent(rule.first, 0)} ` +
          `of at least ${plural(rule.count, "place")}.`,
      ),
    ];
    if (!findings.learned.length) {
      children.push(element("p", "verdict", "No token of the data is: nothing to ignore."));
      return section("Learned at once", "0", ...children);
    }
    children.push(kinds(findings.learned, false));
    if (probe.setting) {
      const code = element("code", "", probe.setting);
      const copy = button("lm-button", "Copy", async () => {
        try {
          await navigator.clipboard.writeText(probe.setting);
          copy.textContent = "Copied";
        } catch {
          getSelection().selectAllChildren(code); // a page from a file may not be allowed to
        }
      });
      children.push(
        element(
          "p",
          "verdict",
          `To leave each of them out of the loss by chance (${percent(probe.chance, 0)}), prepare ` +
            "the data with",
        ),
        element("div", "card setting", code, copy),
      );
    }
    return section("Learned at once", plural(findings.learned.length, "kind"), ...children);
  }

  function carrying() {
    return section(
      "Carry the loss",
      plural(findings.carrying.length, "kind"),
      element(
        "p",
        "rule",
        `The fewest of ${plural(findings.carrying_kinds_of, "kind")} of tokens that have ` +
          `${percent(probe.carried, 0)} of the loss.`,
      ),
      kinds(findings.carrying, true),
    );
  }

  // --- examples -------------------------------------------------------------------------------

  let colour = "loss";
  let current = 0;
  const list = element("div", "card list");
  const detail = element("div", "card detail");
  const legend = element("div", "legend");
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Examples, the hardest first");

  const inLoss = (example) => {
    const weights = [];
    for (const [count, weight] of example.drawn.weights) {
      for (let k = 0; k < count; k++) weights.push(weight);
    }
    return example.at.map((position) => weights[position] !== 0);
  };
  const mean = (values, chosen) => {
    const kept = values.filter((_, k) => chosen[k]);
    return kept.reduce((sum, value) => sum + value, 0) / (kept.length || 1);
  };
  const means = probe.examples.map((example) => mean(example.loss, inLoss(example)));
  const greatest = Math.max(...means, 1e-9);

  function trainedText(example) {
    const texts = [];
    let token = 0;
    const chosen = inLoss(example);
    const asked = new Set(example.at.filter((_, k) => chosen[k]));
    for (const piece of example.drawn.pieces) {
      const [text, ids] = probe.table[piece];
      const count = Array.isArray(ids) ? ids.length : 1;
      if (asked.has(token)) texts.push(text);
      token += count;
    }
    return texts.join("");
  }

  probe.examples.forEach((example, k) => {
    const made = button(
      "item",
      element(
        "div",
        "item-head",
        element("b", "", `example ${number(example.number)}`),
        element("span", "item-tokens", `${nats(means[k])} nats`),
      ),
      () => show(k),
    );
    made.setAttribute("role", "option");
    made.append(
      element("div", "item-text", short(shown(trainedText(example)), 90)),
      share(means[k] / greatest),
    );
    list.append(made);
  });

  function changeClass(change) {
    const size = Math.abs(change) < 0.1 ? 0 : Math.abs(change) < 1 ? 1 : Math.abs(change) < 3 ? 2 : 3;
    return size ? `${change < 0 ? "better" : "worse"}-${size}` : "same";
  }

  function guesses(columns, k, id) {
    return columns.top[k].map((token, place) => {
      const chance = percent(Math.exp(columns.logprobs[k][place]));
      const sign = token === id ? " ◂ this one" : "";
      return [chance, `${shown(probe.texts[token])}${sign}`, "guess"];
    });
  }

  function rowsOf(example, k, id) {
    const loss = example.loss[k];
    const rank = example.rank[k];
    const rows = [
      ["loss", `${nats(loss)} nats · ${percent(Math.exp(-loss), 2)}`],
      ["rank", rank ? `${number(rank)} likelier` : "first"],
      ...guesses(example, k, id),
    ];
    if (example.before) {
      const was = example.before.loss[k];
      rows.push(["before", `${nats(was)} nats · ${percent(Math.exp(-was), 2)}`]);
      rows.push(...guesses(example.before, k, id));
    }
    return rows;
  }

  function show(k, isMove = false) {
    current = k;
    legend.replaceChildren(colour === "loss" ? scale() : changeScale());
    [...list.children].forEach((item, place) => item.setAttribute("aria-selected", place === k));
    const example = probe.examples[k];
    const places = new Map(example.at.map((position, place) => [position, place]));
    const tokens = element("div", "tokens");
    const facts = [
      `row ${number(example.row)}`,
      `${number(example.at.length)} of ${plural(example.drawn.tokens, "token")}`,
      `mean loss ${nats(means[k])}`,
    ];
    if (example.before) facts.push(`before ${nats(mean(example.before.loss, inLoss(example)))}`);
    const previous = button("lm-button", "←", () => show(current - 1, true));
    const next = button("lm-button", "→", () => show(current + 1, true));
    previous.setAttribute("aria-label", "The example before");
    next.setAttribute("aria-label", "The next example");
    previous.disabled = k === 0;
    next.disabled = k === probe.examples.length - 1;
    const steps = element("div", "steps", previous, next);
    if (before) {
      const label = colour === "loss" ? "Colour: loss" : "Colour: change";
      steps.prepend(
        button("lm-button", label, () => {
          colour = colour === "loss" ? "change" : "loss";
          show(current);
        }),
      );
    }
    detail.replaceChildren(
      element(
        "header",
        "",
        element("h3", "", `Example ${number(example.number)}`),
        element("span", "facts", facts.join(" · ")),
        steps,
      ),
      tokens,
    );
    drawTokens(tokens, example.drawn, {
      table: probe.table,
      rows: (token) =>
        places.has(token) ? rowsOf(example, places.get(token), idOf(example, token)) : [],
      decorate: (made, piece) => {
        const asked = piece.ids.map((_, j) => places.get(piece.token + j)).filter((at) => at >= 0);
        made.classList.remove("lm-trained", "lm-negative", "lm-odd");
        if (!asked.length) {
          made.classList.add("unasked");
          return;
        }
        const worst = asked.reduce((a, b) => (example.loss[a] >= example.loss[b] ? a : b));
        const kind =
          colour === "loss" || !example.before
            ? `l${levelOf(example.loss[worst])}`
            : changeClass(example.loss[worst] - example.before.loss[worst]);
        made.classList.add("probed", kind);
      },
    });
    if (isMove) list.children[k].scrollIntoView({ block: "nearest" });
  }

  function idOf(example, token) {
    let at = 0;
    for (const piece of example.drawn.pieces) {
      const ids = [probe.table[piece][1]].flat();
      if (token < at + ids.length) return ids[token - at];
      at += ids.length;
    }
    return -1;
  }

  // --- the page -------------------------------------------------------------------------------

  const title = before ? `${before.model} → ${probe.model}` : probe.model;
  const shownOf = probe.examples.length < probe.of ? ` of ${number(probe.of)}` : "";
  document.getElementById("app").append(
    element(
      "div",
      "top",
      element("div", "brand", element("span", "mark", "▮"), "lossmask probe"),
      element("h1", "", visible(`${title} on ${probe.data}`)),
      element("div", "tools links", lossmask.themeButton()),
    ),
    element(
      "main",
      "",
      element("section", "", figures()),
      section("How the loss is spread", "", spread()),
      section("By part", "", parts()),
      element("div", "pair", learned(), carrying()),
      section(
        "Examples",
        `${number(probe.examples.length)}${shownOf}, the hardest first`,
        legend,
        element("div", "panes", list, detail),
      ),
    ),
  );
  if (probe.examples.length) show(0);
})();
