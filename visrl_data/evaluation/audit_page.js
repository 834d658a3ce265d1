// The page of `visrl audit`, after page_parts.js: one pair at a time, up to four marks of each, sent as they are made.
// It does not know which side is the win. What it shows is untrusted text, so it sets attributes and text nodes only.
const VERDICTS = ["right", "wrong", "unsure"];
const WORDS = { box: ["right place", "not", "can't tell"], response: ["right", "wrong", "can't tell"] };
const at = (id) => document.getElementById(id);
let pairs = [], pair = 0, step = 0;
let queue = Promise.resolve(); // keys are obeyed one after the other, however fast they come

const steps = ({ same }) => [[0, "box"], [1, "box"], [0, "response"], ...(same ? [] : [[1, "response"]])];
const markOf = (item, [place, part]) => item.marks[place][part];
const isDone = (item) => steps(item).every((one) => markOf(item, one) !== null);
const say = (words) => { at("message").textContent = words; };

function firstOpen(item) {
  return Math.max(0, steps(item).findIndex((one) => markOf(item, one) === null));
}

function go(number, which) {
  pair = Math.min(Math.max(number, 0), pairs.length - 1);
  step = which === undefined ? firstOpen(pairs[pair]) : which;
  show();
}

function next() {
  const last = steps(pairs[pair]).length - 1;
  if (step < last) { step += 1; showMarks(); }
  else if (pair < pairs.length - 1) go(pair + 1);
  else showMarks();
}

function show() {
  const item = pairs[pair];
  at("question").textContent = item.question;
  at("answers").open = false;
  at("answers").querySelector("p").textContent = item.answers.join(" / ");
  at("picture").replaceChildren(wholeImage(item));
  at("sides").replaceChildren(...[0, 1].map((place) => pane(item, place)));
  scrollTo(0, 0);
  showMarks();
}

function showMarks() {
  const item = pairs[pair], done = pairs.filter(isDone).length;
  at("place").textContent = `${pair + 1} of ${pairs.length}, ${done} marked`;
  at("progress").value = done / pairs.length;
  for (const group of document.querySelectorAll("fieldset")) {
    const one = [Number(group.dataset.place), group.dataset.part];
    const active = String(steps(item)[step]) === String(one);
    group.classList.toggle("active", active);
    if (active && step) group.scrollIntoView({ block: "nearest" });
    for (const button of group.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", button.dataset.verdict === markOf(item, one));
    }
  }
  if (done === pairs.length) say("All are marked. Close this page, and press Ctrl-C where visrl audit runs.");
}

function wholeImage(item) {
  const [width, height] = item.size;
  const label = "The image with both boxes";
  const frame = s("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "xMinYMin", role: "img", "aria-label": label });
  frame.append(s("image", { href: `picture/${pair}`, width, height }));
  for (const place of [0, 1]) frame.append(boxOf(item, place));
  return frame;
}

function boxOf(item, place) {
  const [x1, y1, x2, y2] = item.boxes[place], [width, height] = item.size;
  const frame = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
  const style = place ? "box second" : "box";
  const side = Math.max(width, height) * 0.05;
  // The number of the first box stands above it, that of the second below, so that those of equal boxes stay apart.
  const x = Math.min(Math.max(x1, 0), width - side);
  const y = Math.min(Math.max(place ? y2 : y1 - side, 0), height - side);
  return s("g", { class: `color-${item.colors[place]}` },
    s("rect", { class: "box halo", ...frame }), s("rect", { class: style, ...frame }),
    s("rect", { class: "plate", x, y, width: side, height: side }),
    s("text", { class: "tag", x: x + side / 2, y: y + side / 2, "font-size": side * 0.75 }, String(place + 1)));
}

function pane(item, place) {
  const name = `Box ${place + 1}`;
  const groups = [group(item, place, "box", `${name} shows the right place?`)];
  if (!item.same || place === 0) {
    groups.push(group(item, place, "response", item.same ? "Response, the same of both, right?" : "Response right?"));
  }
  return h("section", { class: `pane color-${item.colors[place]}`, "aria-label": name },
    h("div", null, h("h2", null, name), h("img", { src: `crop/${pair}/${place}`, alt: `What box ${place + 1} shows` })),
    h("div", null, groups[0], h("p", { class: "reply" }, text(item.responses[place])), groups[1] || null));
}

function group(item, place, part, legend) {
  const buttons = VERDICTS.map((verdict, i) => {
    const button = h("button", { "data-verdict": verdict, type: "button" }, WORDS[part][i]);
    button.addEventListener("click", () => soon(() => {
      const which = steps(item).findIndex((one) => String(one) === String([place, part]));
      if (pairs[pair] === item) { step = which; return mark(verdict); }
    }));
    return button;
  });
  return h("fieldset", { "data-place": place, "data-part": part }, h("legend", null, legend), h("div", null, ...buttons));
}

// Send the mark of what is active; show it, and go on, once it is on disk.
async function mark(verdict) {
  const item = pairs[pair], [place, part] = steps(item)[step];
  const body = JSON.stringify({ pair, place, part, verdict, seen: markOf(item, [place, part]) });
  let reply;
  try {
    reply = await fetch("mark", { method: "POST", body });
  } catch {
    say("Not stored: visrl audit is not running any more. Start it again, and open the address that it prints.");
    return;
  }
  if (reply.status !== 200 && reply.status !== 409) {
    say("Not stored: this page is of an earlier start of visrl audit. Open the address that the last one printed.");
    return;
  }
  item.marks = await reply.json();
  if (reply.status === 409) {
    say("Not stored: this was marked on another page in the meantime. Its mark is shown now; mark again to change it.");
    showMarks();
  } else {
    say("");
    next();
  }
}

function soon(act) {
  queue = queue.then(act);
}

const KEYS = {
  1: () => mark("right"),
  2: () => mark("wrong"),
  3: () => mark("unsure"),
  ArrowUp: () => { step = Math.max(0, step - 1); showMarks(); },
  ArrowDown: () => { step = Math.min(steps(pairs[pair]).length - 1, step + 1); showMarks(); },
  ArrowLeft: () => go(pair - 1, 0),
  ArrowRight: () => go(pair + 1),
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
  event.preventDefault();
  soon(KEYS[event.key]);
});
at("back").addEventListener("click", () => soon(KEYS.ArrowLeft));
at("skip").addEventListener("click", () => soon(KEYS.ArrowRight));

fetch("pairs").then((reply) => reply.json()).then((content) => {
  pairs = content.pairs;
  at("who").textContent = `${content.annotator}:`;
  at("note").textContent = content.note;
  const open = pairs.findIndex((item) => !isDone(item));
  go(open < 0 ? 0 : open);
}, () => say("The pairs could not be loaded: is visrl audit still running?"));
