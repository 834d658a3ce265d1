// The gallery of report.html: builds a card for each question, and filters and sorts them.
// What it shows is untrusted text, so it sets attributes and text nodes only, never markup.
// Pictures and nodes are made by page_parts.js, which comes before it; it also keeps the filters in the #hash.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("filters");
  const holder = document.getElementById("cards");
  const ORIGIN = { actor: "the actor's box", controller: "the controller's box" };
  const RANGES = { wb: ["win", "box"], wr: ["win", "response"], lb: ["lose", "box"], lr: ["lose", "response"] };

  const whole = (item) => [0, 0, ...item.size];
  const labels = (item) => item.gold.map((box) => ({ kind: "gold", letter: "G", box }));
  const kindOf = (candidate) => ({ W: "win", L: "lose" })[candidate.kind] || "between";
  const letterOf = (candidate) => (candidate.kind.length === 1 ? candidate.kind : "") + candidate.index;

  function crop(item, candidate, kind) {
    const label = `crop of candidate ${candidate.index}`;
    return picture(item, candidate.crop, label, [{ kind, letter: "", box: candidate.box }]);
  }

  function scoreText({ value, state }) {
    return state === "ok" ? number(value) : state.replace("unparsed:", "unparsed: ").replaceAll("_", " ");
  }

  // Cards
  function card(item) {
    const node = h("article", { class: "card", "aria-label": item.question.slice(0, 120) });
    const link = "#" + new URLSearchParams({ view: "win" in item ? "pairs" : "unpaired", q: item.id });
    node.append(
      h("h3", null, text(item.question)),
      h("p", null, "Answer: ", text(item.answers.join(" or "))),
      h("ul", { class: "chips" }, ...chips(item).map((words) => h("li", null, words)),
        h("li", null, h("a", { href: link }, h("bdi", null, item.id)))),
      "win" in item ? pairViews(item) : unpairedViews(item),
      history(item),
    );
    return node;
  }

  function chips(item) {
    const facts = [h("bdi", null, item.source)];
    if (!("win" in item)) return [...facts, item.reason.replaceAll("_", " "), item.detail];
    if (item.same) facts.push("same response: trains the box only");
    if (item.ties[0] > 1) facts.push(`win drawn among ${item.ties[0]} ties`);
    if (item.ties[1] > 1) facts.push(`lose drawn among ${item.ties[1]} ties`);
    facts.push(`IoU of win and lose ${number(item.iou)}`);
    return facts;
  }

  const candidateOf = (item, side) => item.candidates.find((candidate) => candidate.index === item[side]);

  function pairViews(item) {
    const sides = ["win", "lose"].map((side) => [side, candidateOf(item, side)]);
    const boxes = sides.map(([kind, { box }]) => ({ kind, letter: kind === "win" ? "W" : "L", box }));
    return h("div", { class: "views" },
      picture(item, whole(item), "image with win, lose and label boxes", [...labels(item), ...boxes]),
      h("div", { class: "sides" }, ...sides.map(([kind, candidate]) => sideView(item, kind, candidate))));
  }

  function sideView(item, kind, candidate) {
    const { box, response } = candidate.scores;
    const on = candidate.label_iou === null ? "" :
      `, IoU with the label ${number(candidate.label_iou)} (${positive(candidate) ? "positive" : "negative"})`;
    return h("div", { class: "side" }, crop(item, candidate, kind),
      h("div", null,
        h("p", null, h("span", { class: "swatch " + kind }, kind === "win" ? "W" : "L"), ` ${ORIGIN[candidate.origin]}${on}`),
        text(candidate.response),
        h("p", null, `box score ${scoreText(box)}, response score ${scoreText(response)}`)));
  }

  function unpairedViews(item) {
    const boxes = item.candidates.map((c) => ({ kind: kindOf(c), letter: letterOf(c), box: c.box }));
    return h("div", { class: "views" },
      picture(item, whole(item), "image with the boxes of all candidates", [...labels(item), ...boxes]),
      h("table", null,
        row("th", "", "box", "response", "text"),
        ...item.candidates.map((c) => row("td", letterOf(c), scoreText(c.scores.box), scoreText(c.scores.response),
          text(c.response.slice(0, 80))))));
  }

  const row = (kind, ...cells) => h("tr", null, ...cells.map((cell) => h(kind, { class: "left" }, cell)));

  // History: all candidates of a question, built when it is opened.
  function history(item) {
    const lost = item.lost.length ? `, ${item.lost.length} lost on the way` : "";
    const node = h("details", { class: "history" }, h("summary", null, `All ${item.candidates.length} candidates${lost}`));
    node.addEventListener("toggle", () => {
      if (!node.open || node.children.length > 1) return;
      node.append(h("div", null, ...item.candidates.map((candidate) => candidateView(item, candidate))));
      for (const { stage, reason, attempt, detail } of item.lost) {
        const which = attempt === null ? "The question" : `Attempt ${attempt}`;
        node.append(h("p", null, `${which} lost candidates in the ${stage} pass: ${reason.replaceAll("_", " ")}. `, text(detail)));
      }
    });
    return node;
  }

  function candidateView(item, c) {
    const kind = kindOf(c);
    const role = c.index === item.win ? ", the win" : c.index === item.lose ? ", the lose" : "";
    const relaxed = c.relaxed ? `, relaxed: ${c.relaxed}` : "";
    const label = c.label_iou === null ? "" : `, IoU with the label ${number(c.label_iou)}`;
    const left = h("div", null, crop(item, c, kind), picture(item, whole(item), `focus box of candidate ${c.index}`,
      [...labels(item), { kind, letter: letterOf(c), box: c.box }]));
    const list = h("dl", null,
      ...entry("Box", h("code", { class: "text" }, c.box_text), ` ${ORIGIN[c.origin]}${relaxed}${label}; crop ${c.crop.join(", ")}`),
      ...entry(`Focus reply (${c.state.replaceAll("_", " ")}, seed ${c.seeds[0]})`, raw(c.reply)),
      ...entry(`Response (${c.response_finish}, seed ${c.seeds[1]})`, raw(c.response)),
      ...["box", "response"].flatMap((which) => {
        const score = c.scores[which];
        const mass = score.mass === null ? "" : `, ${number(score.mass)} of the probability on score tokens`;
        return entry(`${which === "box" ? "Box" : "Response"} score: ${scoreText(score)}${mass}`,
          score.state === "off" ? null : raw(score.raw));
      }));
    const title = `Candidate ${c.index}, attempt ${c.attempt}: ${c.kind}${role}`;
    return h("div", { class: "candidate" }, left, h("div", null, h("h4", null, title), list));
  }

  const entry = (term, ...values) => [h("div", null, h("dt", null, term), h("dd", null, ...values))];

  // Filters
  const positive = (candidate) => candidate.label_iou > data.positive_iou;
  function onLabel(item) {
    const win = candidateOf(item, "win");
    return win.label_iou === null ? "unknown" : positive(win) ? "yes" : "no";
  }

  function matches({ view, item, words }, filters) {
    const is = (name, value) => !filters[name] || filters[name] === value;
    if (view !== filters.view || !is("source", item.source)) return false;
    if (filters.exact) return item.id === filters.q;
    if (!filters.q.toLowerCase().split(/\s+/).every((word) => words.includes(word))) return false;
    if (view === "unpaired") return is("reason", item.reason);
    return is("positive", onLabel(item)) && is("origin", candidateOf(item, "lose").origin) &&
      is("same", item.same ? "yes" : "no") && Object.keys(RANGES).every((key) => inRange(item, key, filters));
  }

  function inRange(item, key, filters) {
    const [side, which] = RANGES[key];
    const [least, most] = [filters[key + "_min"], filters[key + "_max"]];
    if (least === "" && most === "") return true;
    const value = candidateOf(item, side).scores[which].value;
    return value !== null && (least === "" || value >= Number(least)) && (most === "" || value <= Number(most));
  }

  const winIou = (item) => candidateOf(item, "win").label_iou;
  const absentLast = (value, sign) => (value === null ? Infinity : sign * value);
  const KEYS = {
    question: (item) => item.question.toLowerCase(),
    reason: (item) => item.reason,
    apart: (item) => item.iou,
    near: (item) => -item.iou,
    on: (item) => absentLast(winIou(item), -1),
    off: (item) => absentLast(winIou(item), 1),
  };

  const entries = ["pairs", "unpaired"].flatMap((view) => data[view].map((item, place) => ({
    view, item, place, node: null,
    words: [item.id, item.question, ...item.answers, ...item.candidates.map((c) => c.response)].join("\n").toLowerCase(),
  })));

  function apply() {
    const filters = Object.fromEntries(new FormData(form));
    for (const node of document.querySelectorAll("[data-view]")) node.hidden = node.dataset.view !== filters.view;
    filters.exact = entries.some(({ view, item }) => view === filters.view && item.id === filters.q);
    const key = KEYS[filters.sort];
    const usable = key && !form.elements.sort.selectedOptions[0].hidden;
    const order = (a, b) => {
      if (!usable) return a.place - b.place;
      const [left, right] = [key(a.item), key(b.item)];
      return left < right ? -1 : left > right ? 1 : a.place - b.place;
    };
    const matching = entries.filter((one) => matches(one, filters)).sort(order);
    for (const one of matching) one.node ||= card(one.item);
    putOut(holder, matching.map((one) => one.node), data[filters.view].length);
    return matching;
  }

  for (const name of ["source", "reason"]) {
    const values = new Set(entries.map(({ item }) => item[name]).filter((value) => value !== undefined));
    for (const value of [...values].sort()) form.elements[name].append(h("option", { value }, value));
  }
  followHash(form, apply, {
    section: "gallery",
    defaults: { view: "pairs" },
    opened: (matching) => { if (matching.length === 1) holder.querySelector("details.history").open = true; },
  });
})();
