// Draws examples that token_data.py wrote: lossmask.drawTokens(container, example, options).
(() => {
  "use strict";
  const { element } = lossmask;
  const AT_ONCE = 4000; // pieces drawn before the browser may paint

  const HIDDEN = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu;
  const JOINER = "\u200d"; // of the parts of an emoji

  /** Make white space at the ends, control characters and what else is not seen visible. */
  function visible(text) {
    return text
      .replace(/^ (?=.)| $| (?= )/gsu, (space, at) => (at === 0 && text[1] !== " " ? space : "·"))
      .replace(HIDDEN, (character) => {
        const code = character.codePointAt(0);
        if (character === "\n") return "⏎\n";
        if (character === "\t") return "⇥";
        if (character === JOINER && text !== JOINER) return character;
        if (code < 0x20) return String.fromCodePoint(0x2400 + code);
        if (code === 0x7f) return "\u2421";
        return `\\u${code > 0xffff ? `{${code.toString(16)}}` : code.toString(16).padStart(4, "0")}`;
      });
  }

  function expand(runs, count, fill) {
    const values = new Array(count).fill(fill);
    let at = 0;
    for (const [length, value] of runs || []) {
      values.fill(value, at, at + length);
      at += length;
    }
    return values;
  }

  const lengths = new Map();
  function codePoints(text) {
    if (!lengths.has(text)) lengths.set(text, [...text].length);
    return lengths.get(text);
  }

  /** Return an example's text. */
  function textOf(example, table = example.table) {
    return example.pieces.map((number) => table[number][0]).join("");
  }

  /** Return pieces, and weight, message and part of each token, of an example. */
  function readTokens(example, table = example.table) {
    const pieces = [];
    let token = 0;
    let at = 0;
    for (const number of example.pieces) {
      const [text, given, spelled] = table[number];
      const ids = Array.isArray(given) ? given : [given];
      const length = codePoints(text);
      pieces.push({ text, ids, spelled, token, end: token + ids.length, at, length });
      token += ids.length;
      at += length;
    }
    return {
      pieces,
      weights: expand(example.weights, token, 0),
      messages: expand(example.messages, token, -1),
      ignorable: expand(example.ignorable, token, 0),
      parts: example.parts ? expand(example.parts, token, "") : null,
      stops: new Set(example.stops),
    };
  }

  /** Return which message each piece is drawn with: what the template wrote joins a neighbour. */
  function owners(read) {
    const { pieces, messages, stops } = read;
    const isStop = (piece) => piece.ids.some((_, k) => stops.has(piece.token + k));
    const stopTexts = new Set(pieces.filter(isStop).map((piece) => piece.text));
    const own = pieces.map((piece) => (piece.ids.length ? messages[piece.token] : -1));
    let last = -1;
    for (let k = 0; k < own.length; ) {
      if (own[k] >= 0) {
        last = own[k++];
        continue;
      }
      let end = k;
      while (end < own.length && own[end] < 0) end++;
      let border = end === own.length ? end : k;
      if (border === k) {
        for (let j = k; j < end; j++) if (stopTexts.has(pieces[j].text)) border = j + 1;
        if (border > k || last >= 0) {
          while (border < end && pieces[border].text && !pieces[border].text.trim()) border++;
        }
      }
      own.fill(last, k, border);
      if (end < own.length) own.fill(own[end], border, end);
      k = end;
    }
    return own;
  }

  function hexOf(piece, k) {
    if (piece.spelled) return spaced(piece.spelled[k]);
    if (!piece.ids.length || !piece.text) return "";
    const bytes = [...new TextEncoder().encode(piece.text)];
    return bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  }

  const spaced = (hex) => hex.replace(/..(?=.)/g, "$& ");

  function authorsOf(example, piece) {
    if (!example.authors) return [];
    const found = [];
    let at = 0;
    for (const [length, message, field, offset, line] of example.authors.runs) {
      const start = Math.max(at, piece.at);
      const end = Math.min(at + length, piece.at + piece.length);
      if (start < end || (start === end && !piece.length && !found.length && at + length > start)) {
        const first = offset < 0 ? null : offset + start - at;
        const name = field < 0 ? null : example.authors.fields[field];
        found.push({ message, field: name, first, end: first + end - start, line });
      }
      at += length;
      if (at >= piece.at + Math.max(piece.length, 1)) break;
    }
    return found;
  }

  const plural = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
  const roleOf = (example, message) =>
    message in example.roles ? `${message} ${example.roles[message]}` : `${message}`;

  function originRows(example, piece) {
    const rows = [];
    for (const author of authorsOf(example, piece)) {
      if (author.message < 0) rows.push(["written by", "the template"]);
      else {
        const where = [roleOf(example, author.message)];
        if (author.field) where.push(author.field);
        if (author.first !== null) {
          const last = author.end - 1;
          where.push(
            last > author.first ? `characters ${author.first}–${last}` : `character ${author.first}`,
          );
        }
        rows.push(["written by", `message ${where.join(" · ")}`]);
      }
      if (author.line >= 0) rows.push(["template line", `${author.line}`]);
    }
    return rows;
  }

  /** Return what there is to say about each token of a piece, as [label, value]. */
  function rowsOf(example, read, piece, more) {
    const rows = [];
    const count = read.weights.length;
    piece.ids.forEach((id, k) => {
      const token = piece.token + k;
      const weight = read.weights[token];
      const loss = weight === 0 ? "not trained" : weight < 0 ? "trained away from" : "trained";
      rows.push(["token", `${token.toLocaleString("en")} of ${count.toLocaleString("en")}`, "lm-head"]);
      rows.push(["id", `${id}`]);
      const hex = hexOf(piece, k);
      if (hex) rows.push(["bytes", piece.ids.length > 1 && !piece.spelled ? `of ${hex}` : hex]);
      const chance = read.ignorable[token] ? ", left out by chance" : "";
      rows.push(["weight", `${weight} · ${read.stops.has(token) ? "stop token, " : ""}${loss}${chance}`]);
      if (read.parts) rows.push(["part", read.parts[token]]);
      if (more) rows.push(...more(token));
    });
    if (!piece.ids.length) rows.push(["token", "none stands for this text"]);
    const origin = originRows(example, piece);
    const message = piece.ids.length ? read.messages[piece.token] : -1;
    if (!origin.length && piece.ids.length) {
      origin.push([
        "written by",
        message < 0 ? "the template" : `message ${roleOf(example, message)}`,
      ]);
    }
    return [...rows, ...origin];
  }

  let card = null; // one for the page
  let target = null;

  function hideCard() {
    if (card) card.hidden = true;
  }

  function placeCard() {
    if (!card || card.hidden) return;
    const at = [...target.getClientRects()].pop();
    if (!at || at.bottom < 0 || at.top > window.innerHeight) {
      hideCard();
      return;
    }
    const size = card.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const below = at.bottom + 8 + size.height < window.innerHeight;
    card.style.left = `${Math.max(8, Math.min(at.left, width - size.width - 8))}px`;
    card.style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - size.height - 8)}px`;
  }

  function showCard(over, text, rows) {
    if (!card?.isConnected) {
      card = element("div", "lm-card");
      card.id = "lm-card";
      card.setAttribute("role", "tooltip");
      document.body.append(card);
    }
    const list = element("dl", "");
    for (const [label, value, kind] of rows) {
      list.append(element("dt", kind || "", label), element("dd", kind || "", visible(`${value}`)));
    }
    card.replaceChildren(element("div", "lm-card-text", text), list);
    card.hidden = false;
    target = over;
    placeCard();
  }

  function pieceElement(piece, number, read) {
    const { weights, stops } = read;
    const made = element("span", "lm-t", visible(piece.text));
    made.dataset.piece = number;
    const tokens = piece.ids.map((_, k) => piece.token + k);
    const weight = tokens.map((token) => weights[token]).find((each) => each !== 0) || 0;
    const classes = made.classList;
    if (number % 2) classes.add("lm-odd");
    if (weight) classes.add(weight < 0 ? "lm-negative" : "lm-trained");
    if (weight && Math.abs(weight) !== 1) {
      made.style.setProperty("--weight", Math.min(Math.abs(weight), 1.5).toFixed(3));
    }
    if (tokens.some((token) => stops.has(token))) classes.add("lm-stop");
    if (tokens.some((token) => read.ignorable[token])) classes.add("lm-ignorable");
    if (!tokens.length) classes.add("lm-gap");
    if (!piece.text) {
      classes.add("lm-empty");
      made.textContent = "∅";
    } else if (/^ [^ ]/su.test(piece.text) || piece.text === " ") classes.add("lm-space");
    return made;
  }

  /**
   * Draw an example.
   *
   * options.table: the pieces of several examples; default: the example's own.
   * options.rows(token): more [label, value] for the card of a token.
   * options.decorate(element, piece, read): change how a piece looks; piece.token and piece.end are
   *   its tokens (half-open), piece.text, piece.ids what they are.
   * options.onSelect(token): told of the token that the card shows.
   * Returns { element, read, select(token), elementOf(token) }.
   */
  function drawTokens(container, example, options = {}) {
    const read = readTokens(example, options.table || example.table);
    const own = owners(read);
    const root = element("div", "lm-tokens");
    root.tabIndex = 0;
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", "Tokens. Arrow keys go through them.");
    container.replaceChildren(root);
    const drawn = [];
    let block = null;
    let owner = null;

    function draw(until) {
      for (let k = drawn.length; k < until; k++) {
        if (!block || own[k] !== owner) {
          owner = own[k];
          const role = example.roles[owner] ?? "";
          block = element("div", "lm-text");
          block.dir = "auto";
          const label = element("div", "lm-role");
          if (owner >= 0) label.append(element("b", "", `${owner}`), ` ${visible(role)}`);
          else if (example.roles.length) label.append("template");
          const turn = element("div", "lm-turn", label, block);
          if (["system", "developer", "user", "assistant", "tool"].includes(role)) {
            turn.classList.add(`lm-${role}`);
          }
          root.append(turn);
        }
        const made = pieceElement(read.pieces[k], k, read);
        if (options.decorate) options.decorate(made, read.pieces[k], read);
        drawn.push(made);
        block.append(made);
      }
    }

    function drawMore() {
      draw(Math.min(drawn.length + AT_ONCE, read.pieces.length));
      if (drawn.length < read.pieces.length) {
        requestAnimationFrame(() => root.isConnected && drawMore());
      }
    }
    drawMore();

    let selected = -1;
    let isPinned = false;
    function mark(number, pinned) {
      drawn[selected]?.classList.remove("lm-selected");
      selected = number;
      isPinned = pinned;
      if (number < 0) {
        hideCard();
        return;
      }
      if (number >= drawn.length) draw(read.pieces.length);
      const piece = read.pieces[number];
      drawn[number].classList.add("lm-selected");
      showCard(drawn[number], visible(piece.text), rowsOf(example, read, piece, options.rows));
      if (piece.ids.length) options.onSelect?.(piece.token);
    }

    function select(token) {
      const number = read.pieces.findIndex((piece) => token >= piece.token && token < piece.end);
      if (number < 0) return;
      if (number >= drawn.length) draw(read.pieces.length);
      drawn[number].scrollIntoView({ block: "center" });
      mark(number, true);
    }

    function elementOf(token) {
      const number = read.pieces.findIndex((piece) => token >= piece.token && token < piece.end);
      if (number >= drawn.length) draw(read.pieces.length);
      return drawn[number];
    }

    const numberAt = (event) => Number(event.target.closest?.(".lm-t")?.dataset.piece ?? -1);
    root.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse" && !isPinned) mark(numberAt(event), false);
    });
    root.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse" && !isPinned) mark(-1, false);
    });
    root.addEventListener("click", (event) => {
      const number = numberAt(event);
      mark(isPinned && number === selected ? -1 : number, number >= 0);
    });
    root.addEventListener("focusout", () => mark(-1, false));
    root.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowLeft: -1 };
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key in steps) {
        const next = selected < 0 ? 0 : selected + steps[event.key];
        const number = Math.max(0, Math.min(next, read.pieces.length - 1));
        if (number >= drawn.length) draw(read.pieces.length);
        drawn[number].scrollIntoView({ block: "nearest" });
        mark(number, true);
      } else if (event.key === "Escape" && selected >= 0) mark(-1, false);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    return { element: root, read, select, elementOf };
  }

  window.addEventListener("scroll", placeCard, { passive: true, capture: true });
  Object.assign(lossmask, { visible, textOf, readTokens, drawTokens, hideCard, plural });
})();
