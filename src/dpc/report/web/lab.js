// The lab: a question, three controls, and the traced instance. ``LAB``: settings from the server.

const PAUSE = 150;
// R is a share: below 0 every instance triggers, at 1 none does.
const ALWAYS = -0.01;

class Lab {
  constructor(place) {
    this.shown = null;
    this.flow = null;
    this.asking = null;
    this.question = el("textarea", { rows: "3", id: "question", dir: "auto", spellcheck: "false", required: true, placeholder: "a question as the benchmark asks it" });
    this.question.value = LAB.example ?? "";
    this.tau = this.slider("tau", "τ, threshold of R", { min: ALWAYS, max: 1, step: "any", value: Math.max(LAB.tau, ALWAYS) }, (value) => (value < 0 ? "always" : value >= 1 ? "never" : value.toFixed(3)));
    this.gamma = this.slider("gamma", "γ, pruned from the other vectors", { min: 0, max: 100, step: "any", value: LAB.gamma }, (value) => `${Number(value.toFixed(1))} %`);
    const tokens = Array.from({ length: LAB.softTokens }, (_, at) => el("option", { value: at }, `virtual token ${at}`));
    this.keyOption = el("option", { value: "" }, "the one that gathers most");
    this.token = el("select", { id: "token", onchange: () => this.askAgain(0) }, this.keyOption, tokens);
    this.note = el("p", { class: "note", role: "status", "aria-live": "polite" });
    this.complaint = el("p", { class: "complaint", role: "alert" });
    this.result = el("div", { id: "result" });
    const form = el(
      "form",
      { class: "lab", onsubmit: (event) => { event.preventDefault(); this.ask(this.question.value); } },
      el("label", { for: "question" }, "Question"),
      this.question,
      el(
        "div",
        { class: "controls" },
        el("button", { type: "submit" }, "Ask"),
        LAB.movesTau && this.tau.label,
        LAB.movesCorruption && this.gamma.label,
        LAB.movesCorruption && el("label", { for: "token" }, "Mask ", this.token),
        el("button", { type: "button", onclick: () => this.reset() }, "Reset"),
      ),
    );
    this.question.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    const start = this.tau.input.nextElementSibling.value;
    const origin = {
      calibrated: `τ starts at the calibrated threshold, ${start}.`,
      given: `τ starts at the given threshold, ${start}.`,
      none: "No threshold was calibrated for this prompt: τ starts in the middle.",
    }[LAB.origin];
    const hint = `${LAB.movesTau ? `${origin} ` : ""}Ctrl and Enter ask as well.`;
    place.replaceChildren(form, el("p", { class: "note" }, hint), this.note, this.complaint, this.result);
    this.question.focus();
  }

  slider(id, words, attributes, format) {
    const output = el("output", { for: id });
    const input = el("input", { type: "range", id, ...attributes });
    const show = () => {
      output.value = format(Number(input.value));
      input.setAttribute("aria-valuetext", output.value);
    };
    input.addEventListener("input", () => { show(); this.askAgain(PAUSE); });
    show();
    return { input, show, label: el("label", { for: id, class: "slider" }, words, " ", input, " ", output) };
  }

  reset() {
    this.tau.input.value = Math.max(LAB.tau, ALWAYS);
    this.gamma.input.value = LAB.gamma;
    this.token.value = "";
    for (const each of [this.tau, this.gamma]) each.show();
    this.askAgain(0);
  }

  // Ask the shown question again, with the present values of the controls.
  askAgain(pause) {
    clearTimeout(this.timer);
    if (this.shown !== null) this.timer = setTimeout(() => this.ask(this.shown), pause);
  }

  async ask(question) {
    clearTimeout(this.timer);
    this.asking?.abort();
    const asking = new AbortController();
    this.asking = asking;
    const anew = question !== this.shown;
    const tau = LAB.movesTau ? Number(this.tau.input.value) : null;
    const gamma = LAB.movesCorruption ? Number(this.gamma.input.value) : null;
    const asked = { question, tau, gamma, token: this.token.value === "" ? null : Number(this.token.value), flow: anew };
    this.result.setAttribute("aria-busy", "true");
    this.note.textContent = anew ? "Answering …" : "Answering again …";
    this.complaint.textContent = "";
    const began = performance.now();
    try {
      const headers = { "Content-Type": "application/json", [LAB.header]: LAB.token };
      const response = await fetch("/ask", { method: "POST", headers, body: JSON.stringify(asked), signal: asking.signal });
      const answer = await response.json();
      if (asking !== this.asking) return;
      if (response.ok) this.show(question, answer, anew, performance.now() - began);
      else this.complain(answer.error);
    } catch (error) {
      if (asking === this.asking) this.complain(error instanceof TypeError ? "The server does not answer; is it still running?" : String(error));
    }
  }

  complain(words) {
    this.result.removeAttribute("aria-busy");
    this.note.textContent = "";
    this.complaint.textContent = words;
  }

  show(question, answer, anew, milliseconds) {
    const instance = readPayload(answer.payload).instances[0];
    // Maps belong to the first answer: they keep their state while the corruption changes.
    if (anew) this.flow = instance.flow ? el("section", {}, el("h4", {}, "The flow of information in the first pass"), flowView(instance)) : null;
    const view = instanceView({ ...instance, flow: null });
    if (this.flow) view.append(this.flow);
    this.result.replaceChildren(view);
    this.result.removeAttribute("aria-busy");
    this.shown = question;
    this.keyOption.textContent = `the one that gathers most (${answer.key})`;
    const { first, saliency, second } = answer.seconds;
    const final = finalPass(instance);
    const found = final.found ? `answer ${final.extracted}` : "no answer found";
    this.note.textContent = `${instance.decision.triggered ? "Triggered" : "Not triggered"}: ${found}. ${Math.round(milliseconds)} ms; computed once: first answer ${first.toFixed(2)} s, saliency ${saliency.toFixed(2)} s, this second answer ${second.toFixed(2)} s.`;
  }
}

new Lab(document.getElementById("live"));
