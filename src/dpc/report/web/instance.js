// One instance: question, both rationales, the decision with its evidence, and the flow where there is a map.

const OUTCOMES = {
  fixed: "fixed", broken: "broken", both_right: "both right", both_wrong: "both wrong", right: "right", wrong: "wrong",
};

function badge(outcome) {
  return outcome && el("span", { class: `badge ${outcome}` }, OUTCOMES[outcome]);
}

function methodName(name) {
  return { dpc: "DPC", act: "ACT" }[name] ?? name.replaceAll("_", " ");
}

// The corruption of a decision, as the end of a sentence.
function corruptionWords({ key, corruption }) {
  const about = [key === null ? "" : `virtual token ${key}`, corruption ?? ""].filter(Boolean).join(", ");
  return about && ` (${about})`;
}

// What the trigger decided about an instance, in a sentence.
function decisionSentence(decision) {
  if (!decision) return "This method answers once: there is no decision.";
  const { triggered, judged, trigger, symbol, statistic, threshold, reason } = decision;
  const then = triggered ? `answered again with a corrupted prompt${corruptionWords(decision)}` : "the first answer is kept";
  if (!judged) return `Not judged (${reason ?? "no reason recorded"}): ${then}.`;
  if (statistic === null) return `Trigger “${trigger}”: ${then}.`;
  const [value, limit] = [statisticWords(statistic, threshold, trigger), statisticWords(threshold, statistic, trigger)];
  return `${symbol} = ${value} ${triggered ? "exceeds" : "does not exceed"} τ = ${limit}: ${then}.`;
}

function graded(pass, gold) {
  const words = [pass.found ? ["Answer read: ", foreign(pass.extracted, "strong")] : "No answer found"];
  if (gold !== null) words.push(", ", el("span", { class: pass.correct ? "grade right" : "grade wrong" }, pass.correct ? "✓ right" : "✗ wrong"));
  if (pass.cut) words.push("; stopped by the limit of tokens");
  return el("p", { class: "graded" }, words.flat());
}

function rationale(title, pass, runs, mark, gold) {
  const shown = el("div", { class: "text", dir: "auto" }, runs.map(([words, common]) => (common ? words : el(mark, {}, words))));
  return el("div", {}, el("h4", {}, title), shown, graded(pass, gold));
}

function rationales(instance) {
  const { first, second, gold, decision } = instance;
  if (!second) return [rationale("Rationale", first, [[first.text, true]], "del", gold)];
  const [before, after] = compared(first.text, second.text);
  const title = decision?.triggered === false ? "Second rationale, if it had triggered" : "Second rationale, with the corrupted prompt";
  const same = first.text === second.text;
  return [
    el("div", { class: "pair" }, rationale("First rationale", first, before, "del", gold), rationale(title, second, after, "ins", gold)),
    el("p", { class: "note" }, same ? "Both are the same, word by word." : "Marked: words that only one of the two has."),
  ];
}

function evidence(instance) {
  const { decision } = instance;
  if (!decision) return [];
  const { trigger, symbol, statistic, threshold, influence, left_out: leftOut, profile, more } = decision;
  const parts = [];
  if (influence?.length) parts.push(influenceChart(instance));
  else if (leftOut) parts.push(el("p", { class: "note" }, "The influence along the rationale is not on this page, to keep it small; it is in the records."));
  const pair = [];
  if (statistic !== null) {
    const [value, limit] = [statisticWords(statistic, threshold, trigger), statisticWords(threshold, statistic, trigger)];
    pair.push(figure(statisticChart(decision), [`${symbol} = ${value}, τ = ${limit}: an instance triggers where ${symbol} is larger.`]));
  }
  if (profile?.length) pair.push(profileChart(instance));
  if (pair.length) parts.push(el("div", { class: "pair" }, pair));
  const figures = Object.entries(more);
  if (figures.length) parts.push(table(["figure", "value"], figures.map(([name, value]) => [foreign(name), written(value)]), "Further figures of the trigger"));
  return parts.length ? [el("h4", {}, "Evidence of the decision"), ...parts] : [];
}

function everyAnswer(instance) {
  if (instance.answers.length < 2) return [];
  const rows = instance.answers.map(([name, extracted, correct]) => [methodName(name), extracted === null ? "none found" : foreign(extracted), el("span", { class: correct ? "grade right" : "grade wrong" }, correct ? "✓ right" : "✗ wrong")]);
  return [el("h4", {}, "What every method answered"), scrolling("Answers of every method", table(["method", "answer", "grade"], rows, "Answers to this question"))];
}

// ``instance`` is one of those that ``readPayload`` returns.
function instanceView(instance) {
  const id = freshId("instance");
  const { question, choices: options, gold } = instance;
  return el(
    "article",
    { class: "instance", "aria-labelledby": id },
    el("h3", { id, tabindex: "-1" }, foreign(instance.id), " ", badge(instance.outcome)),
    el("p", { class: "lead" }, decisionSentence(instance.decision)),
    el("h4", {}, "Question"),
    el("div", { class: "text question", dir: "auto" }, question),
    options.length ? el("ul", { class: "options" }, options.map((option) => el("li", {}, foreign(option)))) : "",
    gold === null ? "" : el("p", { class: "gold" }, "Gold answer: ", foreign(gold, "strong")),
    rationales(instance),
    evidence(instance),
    instance.flow ? [el("h4", {}, "The flow of information in the first pass"), flowView(instance)] : "",
    everyAnswer(instance),
  );
}
