// One instance: question, both rationales, the decision and what it rests on, and the flow where there is a map of it.

const OUTCOMES = {
  fixed: "fixed", broken: "broken", both_right: "both right", both_wrong: "both wrong", right: "right", wrong: "wrong",
};

function badge(outcome) {
  return outcome && el("span", { class: `badge ${outcome}` }, OUTCOMES[outcome]);
}

function methodName(name) {
  return { dpc: "DPC", act: "ACT" }[name] ?? name.replaceAll("_", " ");
}

// What the trigger made of an instance, in a sentence.
function decisionSentence({ triggered, ratio, tau, key, masks, reason }) {
  if (triggered === undefined) return "This method answers once: nothing was judged.";
  const masked = key === null ? "" : masks ? ` with soft token ${key} masked` : ` with soft token ${key} as the key token`;
  if (ratio === null && triggered) return `Answered again without asking the trigger${masked && `,${masked}`}.`;
  if (ratio === null) return `Not judged (${reason ?? "no influence was measured"}): the first answer stands.`;
  if (triggered) return `R = ${share(ratio, tau)} exceeds τ = ${share(tau, ratio)}: answered again${masked}.`;
  return `R = ${share(ratio, tau)} does not exceed τ = ${share(tau, ratio)}: the first answer stands.`;
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
  const { first, second, gold, triggered } = instance;
  if (!second) return [rationale("Rationale", first, [[first.text, true]], "del", gold)];
  const [before, after] = compared(first.text, second.text);
  const title = triggered === false ? "Second rationale, had it triggered" : "Second rationale, with the corrupted prompt";
  const same = first.text === second.text;
  return [
    el("div", { class: "pair" }, rationale("First rationale", first, before, "del", gold), rationale(title, second, after, "ins", gold)),
    el("p", { class: "note" }, same ? "Both are the same, word by word." : "Marked: words that stand in one of the two only."),
  ];
}

function evidence(instance) {
  const { ratio, influence, left_out: leftOut, profile } = instance;
  const parts = [];
  if (influence?.length) parts.push(influenceChart(instance));
  else if (leftOut) parts.push(el("p", { class: "note" }, "Its influence along the rationale is left out to keep this page small; the records hold it."));
  const pair = [];
  if (ratio !== null && ratio !== undefined) {
    pair.push(figure(ratioChart(instance), [`R = ${share(ratio, instance.tau)} against τ = ${share(instance.tau, ratio)}: the trigger fires where R is larger.`]));
  }
  if (profile?.length) pair.push(profileChart(instance));
  if (pair.length) parts.push(el("div", { class: "pair" }, pair));
  return parts.length ? [el("h4", {}, "How the prompt influences the rationale"), ...parts] : [];
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
    el("p", { class: "lead" }, decisionSentence(instance)),
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
