// Elements are built from text nodes and attributes alone: no text of a run is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child || child === 0));
  return element;
}

function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// Text of unknown direction and script, isolated from its surroundings.
function foreign(text, tag = "bdi") {
  return el(tag, { class: "foreign" }, text);
}

let lastId = 0;
function freshId(name) {
  lastId += 1;
  return `${name}-${lastId}`;
}

// A wide element in a region with its own scroll bar.
function scrolling(name, inside) {
  return el("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": name }, inside);
}

// A drawing with its caption.
function figure(drawing, caption, more = []) {
  return el("figure", {}, drawing, el("figcaption", {}, ...caption), ...more);
}

function table(headings, rows, caption) {
  return el(
    "table",
    {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, headings.map((heading) => el("th", { scope: "col" }, heading)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, at) => el(at ? "td" : "th", at ? {} : { scope: "row" }, cell))))),
  );
}

// The numbers of a drawing as a table, built when it is opened.
function numbers(headings, rows, caption) {
  const inside = scrolling(caption, "");
  const details = el("details", { class: "numbers" }, el("summary", {}, "as a table"), inside);
  details.addEventListener("toggle", () => details.open && inside.replaceChildren(table(headings, rows(), caption)), { once: true });
  return details;
}

// A group of radio buttons.
function choices(name, options, chosen, change) {
  const group = freshId("choice");
  return el(
    "fieldset",
    { class: "choices" },
    el("legend", {}, name),
    options.map(([value, words]) =>
      el("label", {}, el("input", { type: "radio", name: group, value, checked: value === chosen, onchange: () => change(value) }), words),
    ),
  );
}
