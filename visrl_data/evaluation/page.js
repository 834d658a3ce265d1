// The predictions of an evaluation: a card for each question, a column for each model.
// What it shows is untrusted text: attributes and text nodes only, made by page_parts.js, which comes before.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("filters");
  const holder = document.getElementById("cards");

  holder.style.gridTemplateColumns = `repeat(auto-fill, minmax(min(${220 * data.models.length}px, 100%), 1fr))`;

  const right = (one) => one.score >= 0.5;
  const SHOW = {
    differ: (all) => new Set(all.map(right)).size > 1,
    gained: ([first, ...others]) => !right(first) && others.some(right),
    lost: ([first, ...others]) => right(first) && !others.every(right),
    right: (all) => all.every(right),
    wrong: (all) => !all.some(right),
    unread: (all) => all.some((one) => one.state !== "ok"),
  };

  function column(item, one, model) {
    const name = data.models[model];
    const kind = one.iou === null ? "between" : one.iou > data.positive_iou ? "win" : "lose";
    const boxes = item.gold.map((box) => ({ kind: "gold", letter: "G", box }));
    if (one.box !== null) boxes.push({ kind, letter: String(model + 1), box: one.box });
    const grade = one.score === 1 ? "right" : one.score === 0 ? "wrong" : "part";
    const unread = one.verdict.startsWith("unparsed") ? `, verdict ${one.verdict.replaceAll("_", " ")}` : "";
    const score = { right: "right", wrong: "wrong" }[grade] || `score ${number(one.score)}`;
    const answer = h("p", null, h("span", { class: "score " + grade }, score), " ",
      one.response === null ? `no answer: ${one.state.replaceAll("_", " ")}` : text(one.response), unread);
    const about = [answer];
    if (one.iou !== null) about.push(h("p", { class: "muted" }, `IoU with the label ${number(one.iou)}`));
    if (one.state !== "ok") about.push(h("details", null, h("summary", null, "its reply"), raw(one.reply)));
    const inside = [{ kind, letter: "", box: one.box }];
    const crop = one.crop === null ? null : picture(item, one.crop, `crop of ${name}`, inside);
    return h("section", { class: "prediction" }, h("h4", null, h("bdi", null, `${model + 1}. ${name}`)),
      picture(item, [0, 0, ...item.size], `focus box of ${name}`, boxes),
      h("div", { class: crop === null ? "alone" : "crop" }, crop, h("div", null, ...about)));
  }

  function card(item) {
    return h("article", { class: "card", "aria-label": item.question.slice(0, 120) },
      h("h3", null, text(item.question)),
      h("p", null, "Answer: ", text(item.answers.join(" or "))),
      h("ul", { class: "chips" }, h("li", null, h("bdi", null, item.group)),
        h("li", null, h("a", { href: "#" + new URLSearchParams({ q: item.id }) }, h("bdi", null, item.id)))),
      h("div", { class: "predictions" }, ...item.predictions.map((one, model) => column(item, one, model))));
  }

  const entries = data.questions.map((item) => ({
    item, node: null,
    words: [item.id, item.question, ...item.answers, ...item.predictions.map((one) => one.response || "")]
      .join("\n").toLowerCase(),
  }));

  function apply() {
    const filters = Object.fromEntries(new FormData(form));
    const exact = entries.some(({ item }) => item.id === filters.q);
    const matching = entries.filter(({ item, words }) =>
      (!filters.group || item.group === filters.group) && (!filters.show || SHOW[filters.show](item.predictions)) &&
      (exact ? item.id === filters.q : filters.q.toLowerCase().split(/\s+/).every((word) => words.includes(word))));
    for (const one of matching) one.node ||= card(one.item);
    putOut(holder, matching.map((one) => one.node), entries.length);
  }

  for (const value of [...new Set(data.questions.map(({ group }) => group))].sort())
    form.elements.group.append(h("option", { value }, value));
  followHash(form, apply, { section: "predictions" });
})();
