"use strict";
(() => {
  const NEAR = 0, BLOCK = 1, FAR = 2, STEPS = 35, HEAVIEST = 32;
  const models = JSON.parse(document.getElementById("explorer-data").textContent);
  const part = (name) => document.getElementById("explorer-" + name);
  const [model, layer, head, query, view] = ["model", "layer", "head", "query", "view"].map(part);

  const distinct = (values) => [...new Set(values)].sort((a, b) => a - b);
  const rowsOf = () => models[model.value].rows;
  const row = () => rowsOf().find((r) => r[0] === +layer.value && r[1] === +head.value && r[2] === +query.value);

  function fill(select, values) {
    const before = select.value;
    select.replaceChildren(...values.map((value) => new Option(String(value), String(value))));
    if (values.map(String).includes(before)) select.value = before;
  }

  function fillAll() {
    fill(layer, distinct(rowsOf().map((r) => r[0])));
    fill(head, distinct(rowsOf().filter((r) => r[0] === +layer.value).map((r) => r[1])));
    fill(query, distinct(rowsOf().map((r) => r[2])));
    draw();
  }

  // Each token's true weight, and how HSA sees it: [kind, level] or null.
  function look(r) {
    const [, , , most, letters, spans] = r;
    const weights = [...letters].map((letter) => most * (parseInt(letter, 36) / STEPS) ** 2);
    const seen = new Array(weights.length).fill(null);
    for (const [kind, begin, end, level, share] of spans) {
      for (let t = begin; t < Math.min(end, seen.length); ++t) seen[t] = { kind, level, share, size: end - begin };
    }
    return { weights, seen };
  }

  // A byte's number, or what a token of a tokenizer stands for.
  function letterOf(byte) {
    if (typeof byte === "string") return byte.replaceAll("\n", "↵\n");
    if (byte === 10) return "↵\n";
    if (byte >= 32 && byte < 127) return String.fromCharCode(byte);
    return "·";
  }

  function facts({ weights, seen }, missed) {
    const share = (test) => weights.reduce((sum, w, t) => sum + (test(seen[t]) ? w : 0), 0);
    const all = share(() => true) || 1;
    const text = (name, test) => `${name} ${(100 * share(test) / all).toFixed(1)} %`;
    return [
      "True attention on what HSA attends: " + text("near window", (s) => s && s.kind === NEAR),
      text("selected blocks", (s) => s && s.kind === BLOCK),
      text("in pooled nodes", (s) => s && s.kind === FAR),
      text("not seen", (s) => !s),
      `${missed} of the ${Math.min(HEAVIEST, weights.length)} heaviest tokens missed`,
    ].join("; ") + ".";
  }

  function draw() {
    const r = row();
    if (!r) return;
    const looked = look(r), { weights, seen } = looked, most = Math.max(...weights);
    const heavy = new Set([...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, HEAVIEST)
      .filter((t) => weights[t] > 0));
    const text = models[model.value].text, shown = view.value, cells = document.createDocumentFragment();
    let missed = 0;
    weights.forEach((weight, t) => {
      const cell = document.createElement("span"), how = seen[t];
      cell.textContent = letterOf(text[t]);
      if (shown !== "hsa") cell.style.setProperty("--weight", Math.sqrt(weight / most).toFixed(3));
      const attended = how && how.kind !== FAR;
      if (shown !== "true" && attended) cell.classList.add("held");
      if (shown !== "true" && how && how.kind === FAR) cell.classList.add("far", "level-" + Math.min(how.level, 5));
      if (heavy.has(t) && !attended) {
        ++missed;
        if (shown !== "hsa") cell.classList.add("missed");
      }
      if (t === r[2]) cell.classList.add("query");
      const name = !how ? "not seen" : how.kind === FAR ? `in a node of ${how.size} tokens, level ${how.level}`
        : how.kind === BLOCK ? "in a selected block" : "near";
      cell.title = `token ${t}: ${(100 * weight).toFixed(2)} %, ${name}`;
      cells.append(cell);
    });
    part("text").replaceChildren(cells);
    part("facts").textContent = facts(looked, missed);
  }

  function step(select, by) {
    const next = select.selectedIndex + by;
    if (next < 0 || next >= select.options.length) return;
    select.selectedIndex = next;
    fillAll();
  }

  for (const select of [model, layer, head, query, view]) select.addEventListener("change", fillAll);
  part("text").addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [query, -1], ArrowRight: [query, 1], ArrowUp: [head, -1], ArrowDown: [head, 1] };
    if (!(event.key in moves)) return;
    event.preventDefault();
    step(...moves[event.key]);
  });
  fillAll();
})();
