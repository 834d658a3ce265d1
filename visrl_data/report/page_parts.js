// What the scripts of all pages share: nodes of text, pictures with boxes drawn on them, filters kept in the #hash.
// What they show is untrusted text, so they set attributes and text nodes only, never markup.
"use strict";
const SVG = document.querySelector("svg").namespaceURI;

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}
const h = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const s = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
const text = (words) => h("span", { class: "text", dir: "auto" }, words === "" ? "(empty)" : words);
const raw = (words) => h("pre", { class: "text", dir: "auto", tabindex: 0 }, words === "" ? "(empty)" : words);
const number = (value) => (value === null ? "-" : String(Math.round(value * 1000) / 1000));

// Put out the cards that the filters let through, and how many they are.
function putOut(holder, nodes, total) {
  const hint = total ? "Nothing matches these filters. Clear them to see all." : "There is nothing to show here.";
  holder.replaceChildren(...(nodes.length ? nodes : [h("p", { class: "muted" }, hint)]));
  document.getElementById("shown").textContent = `${nodes.length} of ${total} shown`;
}

// Pictures: an SVG whose units are pixels of the original image, so boxes and crops need no conversion.
function picture(item, [left, top, right, bottom], label, boxes) {
  const view = [left, top, right - left, bottom - top].join(" ");
  const frame = s("svg", { viewBox: view, preserveAspectRatio: "xMinYMin", role: "img", "aria-label": label });
  frame.append(s("title", null, label), s("use", { href: "#picture-" + item.picture }));
  const unit = Math.max(right - left, bottom - top);
  for (const box of boxes) frame.append(outline(box, unit, item.size));
  return frame;
}

function outline({ kind, letter, box: [x1, y1, x2, y2] }, unit, [width, height]) {
  const place = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
  const group = s("g", { "data-kind": kind });
  group.append(s("rect", { class: `box ${kind} halo`, ...place }), s("rect", { class: "box " + kind, ...place }));
  if (!letter) return group;
  const side = unit * 0.062;
  // Outside the box where there is room, each kind at a corner of its own: letters of equal boxes stay apart.
  const wide = side * (0.5 + 0.5 * letter.length);
  const x = Math.min(kind === "gold" ? x2 : x1, width - wide);
  const y = Math.min(Math.max(kind === "lose" ? y2 : kind === "gold" ? y1 : y1 - side, 0), height - side);
  group.append(s("rect", { class: "plate " + kind, x, y, width: wide, height: side }));
  group.append(s("text", { class: "tag", x: x + wide / 2, y: y + side / 2, "font-size": side * 0.8 }, letter));
  return group;
}

// The state of the filters is the page's #hash, so that a view can be kept and shared. It holds what differs from
// the defaults; one without "=" is a section of the page, which stands there when nothing differs.
// apply shows what the form asks for and returns it; opened gets what a hash led to.
function followHash(form, apply, { section, defaults = {}, opened = () => {} }) {
  function toHash() {
    const changed = [...new FormData(form)].filter(([name, value]) => value !== (defaults[name] || ""));
    window.history.replaceState(null, "", "#" + (new URLSearchParams(changed).toString() || section));
  }

  function fromHash() {
    const hash = location.hash.slice(1);
    if (!hash.includes("=")) return;
    form.reset();
    for (const [name, value] of new URLSearchParams(hash)) {
      const control = form.elements.namedItem(name);
      if (control) control.value = value;
    }
    opened(apply());
  }

  form.addEventListener("input", () => { apply(); toHash(); });
  form.addEventListener("reset", () => setTimeout(() => { apply(); toHash(); }));
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", fromHash);
  apply();
  fromHash();
}

