// The instances of a run: filtered, searched, sorted. Only the visible rows are elements, so thousands stay quick.

const ROW = 56;
const SPARE = 4;
// With prompt tuning as a baseline, and without it.
const OUTCOME_GROUPS = [["fixed", "broken", "both_wrong", "both_right"], ["right", "wrong"]];
const statisticOr = (instance, missing) => instance.decision?.statistic ?? missing;
const ORDERS = {
  file: ["order of the rows", () => 0],
  high: ["largest first", (a, b) => statisticOr(b, -Infinity) - statisticOr(a, -Infinity) || 0],
  low: ["smallest first", (a, b) => statisticOr(a, Infinity) - statisticOr(b, Infinity) || 0],
};
const TESTS = {
  outcome: (instance, value) => instance.outcome === value,
  trigger: (instance, value) => (instance.decision?.triggered === true) === (value === "yes"),
  found: (instance) => !finalPass(instance).found,
  map: (instance) => Boolean(instance.flow),
};

class InstanceList {
  // ``show(instance, moved)`` is called when one is chosen; ``moved``: the focus should go to its view.
  constructor(instances, show) {
    this.instances = instances;
    this.show = show;
    this.filters = { outcome: "", trigger: "", found: "", map: "", words: "", order: "file" };
    this.chosen = null;
    this.texts = instances.map((each) => [each.id, each.question, each.gold ?? "", each.first.text, each.second?.text ?? ""].join("\n").toLowerCase());
    this.status = el("p", { class: "note", role: "status" });
    this.rows = el("div", { class: "rows", role: "presentation" });
    this.box = el("div", { class: "list", role: "listbox", tabindex: "0", "aria-label": "Instances" }, this.rows);
    this.box.addEventListener("scroll", () => this.draw(), { passive: true });
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("click", (event) => {
      const row = event.target.closest("[role=option]");
      if (row) this.choose(Number(row.dataset.place), true);
    });
    new ResizeObserver(() => this.draw()).observe(this.box);
    this.element = el("div", { class: "browser" }, this.controls(), this.status, this.box);
    this.filter();
  }

  controls() {
    const change = (name) => (value) => {
      this.filters[name] = value;
      this.filter();
    };
    const search = el("input", { type: "search", placeholder: "question, answer or id", oninput: () => change("words")(search.value) });
    const order = el("select", { onchange: () => change("order")(order.value) }, Object.entries(ORDERS).map(([value, [words]]) => el("option", { value }, value === "file" ? words : `${this.symbol()}, ${words}`)));
    const outcomes = OUTCOME_GROUPS.filter((group) => group.some((value) => this.count("outcome", value))).flat();
    const judged = this.instances.some((each) => each.decision);
    return el(
      "div",
      { class: "controls" },
      el("label", { class: "search" }, "search ", search),
      el("label", {}, "sort by ", order),
      this.chips("outcome", "outcome", outcomes.map((value) => [value, OUTCOMES[value]]), change),
      judged && this.chips("trigger", "trigger", [["yes", "triggered"], ["no", "not triggered"]], change),
      this.tick("found", "no answer found", change),
      this.tick("map", "with a heat map", change),
    );
  }

  // What the statistic of these decisions is called.
  symbol() {
    return this.instances.find((each) => each.decision)?.decision.symbol ?? "R";
  }

  count(name, value) {
    return this.instances.filter((each) => TESTS[name](each, value)).length;
  }

  chips(name, legend, values, change) {
    const counted = values.map(([value, words]) => [value, [words, this.counted(this.count(name, value))]]);
    return choices(legend, [["", "all"], ...counted], "", change(name));
  }

  tick(name, words, change) {
    const count = this.count(name, "yes");
    const box = el("input", { type: "checkbox", value: name, disabled: !count, onchange: () => change(name)(box.checked ? "yes" : "") });
    return el("label", { class: "tick" }, box, words, this.counted(count));
  }

  counted(count) {
    return el("span", { class: "count", "data-count": count }, ` ${count.toLocaleString("en")}`);
  }

  filter() {
    const { words, order, ...tests } = this.filters;
    const sought = words.toLowerCase().trim();
    const active = Object.entries(tests).filter(([, value]) => value);
    const fits = (each, at) => active.every(([name, value]) => TESTS[name](each, value)) && this.texts[at].includes(sought);
    this.shown = this.instances.filter(fits).sort(ORDERS[order][1]);
    this.rows.style.height = `${this.shown.length * ROW}px`;
    this.box.scrollTop = 0;
    const [some, all] = [this.shown.length, this.instances.length].map((count) => count.toLocaleString("en"));
    this.status.textContent = some === all ? `${all} instances` : some === "0" ? `None of ${all} instances fits` : `${some} of ${all} instances`;
    this.draw();
  }

  draw() {
    const first = Math.max(Math.floor(this.box.scrollTop / ROW) - SPARE, 0);
    const last = Math.min(Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW) + SPARE, this.shown.length);
    this.rows.replaceChildren(...this.shown.slice(first, last).map((instance, at) => this.row(instance, first + at)));
    const at = this.shown.indexOf(this.chosen);
    if (at >= first && at < last) this.box.setAttribute("aria-activedescendant", `row-${at}`);
    else this.box.removeAttribute("aria-activedescendant");
  }

  row(instance, place) {
    const { decision } = instance;
    const chosen = instance === this.chosen;
    const judged = decision ? el("span", { class: "ratio" }, decision.statistic === null ? "–" : `${decision.symbol} ${statisticWords(decision.statistic, decision.threshold, decision.trigger)}`, decision.triggered ? el("span", { class: "fired" }, " triggered") : "") : "";
    const row = el(
      "div",
      { id: `row-${place}`, role: "option", "data-place": place, "aria-selected": String(chosen), "aria-setsize": this.shown.length, "aria-posinset": place + 1, class: chosen ? "row chosen" : "row" },
      el("span", { class: "top" }, foreign(instance.id), badge(instance.outcome) || "", judged),
      el("span", { class: "excerpt", dir: "auto" }, instance.question.slice(0, 200)),
    );
    row.style.top = `${place * ROW}px`;
    return row;
  }

  key(event) {
    const last = this.shown.length - 1;
    if (last < 0) return;
    const at = this.shown.indexOf(this.chosen);
    const page = Math.max(Math.floor(this.box.clientHeight / ROW) - 1, 1);
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: last };
    if (event.key in moves) this.choose(Math.min(Math.max(moves[event.key], 0), last), false);
    else if (event.key === "Enter" && at >= 0) this.choose(at, true);
    else return;
    event.preventDefault();
  }

  choose(place, moved) {
    const instance = this.shown[place];
    const known = instance === this.chosen;
    this.chosen = instance;
    this.reveal(place);
    this.draw();
    if (!known || moved) this.show(instance, moved);
  }

  reveal(place) {
    const { box } = this;
    box.scrollTop = Math.min(Math.max(box.scrollTop, (place + 1) * ROW - box.clientHeight), place * ROW);
  }

  // Choose an instance that may be filtered out.
  open(instance, moved) {
    const at = this.shown.indexOf(instance);
    if (at >= 0) this.choose(at, moved);
    else {
      this.chosen = instance;
      this.draw();
      this.show(instance, moved);
    }
  }
}
