// The cases of a calibration: a card for each question, with what the critic was shown and what it said.
// What it shows is untrusted text: attributes and text nodes only, made by page_parts.js, which comes before.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("filters");
  const holder = document.getElementById("cards");
  const VARIANT = { "": "", wording: ", in other words", repeat: ", asked again" };
  const SHOULD = { right: "should win", wrong: "should lose", open: "" };

  function sight(one, label) {
    if (one.response !== null) return h("p", null, text(one.response));
    if (one.picture === null) return h("p", { class: "blank" }, "one color");
    return picture(one, one.window, label, []);
  }

  function block(one) {
    const kind = data.kinds[one.kind];
    const label = kind.label + VARIANT[one.variant];
    const score = one.score === null ? one.state.replace(":", ": ").replaceAll("_", " ") : number(one.score);
    const verdict = h("p", null, h("span", { class: "verdict" }, score), ` ${one.outcome} `,
      h("span", { class: "muted" }, SHOULD[kind.verdict]));
    const reply = h("details", null, h("summary", null, "its reply"), raw(one.raw));
    const look = one.outcome.startsWith("false") ? "false" : one.outcome;
    return h("section", { class: "case " + look }, h("h4", null, label), sight(one, label), verdict, reply);
  }

  function fits(one, filters) {
    const kind = data.kinds[one.kind];
    return (!filters.critic || kind.critic === filters.critic) && (!filters.kind || one.kind === filters.kind) &&
      (!filters.outcome || one.outcome.startsWith(filters.outcome));
  }

  function card(item, cases) {
    const gold = item.gold.map((box) => ({ kind: "gold", letter: "G", box }));
    return h("article", { class: "card", "aria-label": item.question.slice(0, 120) },
      h("h3", null, text(item.question)),
      h("p", null, "Answer: ", text(item.answers.join(" or "))),
      h("ul", { class: "chips" }, h("li", null, h("a", { href: "#" + new URLSearchParams({ q: item.id }) }, h("bdi", null, item.id)))),
      picture(item, [0, 0, ...item.size], "image of the question", gold),
      h("div", { class: "cases" }, ...cases.map(block)));
  }

  const entries = data.questions.map((item) => ({
    item,
    words: [item.id, item.question, ...item.answers, ...item.cases.map((one) => one.response || "")].join("\n").toLowerCase(),
  }));

  function apply() {
    const filters = Object.fromEntries(new FormData(form));
    const exact = entries.some(({ item }) => item.id === filters.q);
    const matching = entries.filter(({ item, words }) =>
      exact ? item.id === filters.q : filters.q.toLowerCase().split(/\s+/).every((word) => words.includes(word)));
    const nodes = matching.map(({ item }) => [item, item.cases.filter((one) => fits(one, filters))])
      .filter(([, cases]) => cases.length).map(([item, cases]) => card(item, cases));
    putOut(holder, nodes, entries.length);
  }

  for (const critic of new Set(Object.values(data.kinds).map((kind) => kind.critic)))
    form.elements.critic.append(h("option", { value: critic }, critic));
  for (const [value, kind] of Object.entries(data.kinds)) form.elements.kind.append(h("option", { value }, kind.label));
  followHash(form, apply, { section: "cases" });
})();
