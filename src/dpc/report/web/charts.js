// Small charts of one instance, as SVG. Colours and type sizes are the style sheet's.

const LEFT = 52;
const RIGHT = 16;
const TALLEST = 6;

// Round values in [low, high], evenly spaced, about ``most`` of them.
function ticks(low, high, most = 4) {
  const raw = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((each) => each >= raw * (1 - 1e-9));
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, at) => Number(((first + at) * step).toPrecision(12)));
}

function linear(low, high, start, stop) {
  return (value) => Math.round((start + ((Math.min(Math.max(value, low), high) - low) / (high - low || 1)) * (stop - start)) * 10) / 10;
}

function text(x, y, words, kind = "", more = {}) {
  return draw("text", { x, y, class: kind, ...more }, words);
}

function canvasOf(width, height, name) {
  return draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": name });
}

// A value axis from zero to ``top``, in a power of ten that keeps its ticks short.
function valueAxis(svg, top, floor, ceiling, width, name) {
  const exponent = top > 0 && (top < 0.01 || top >= 1000) ? Math.floor(Math.log10(top)) : 0;
  const factor = 10 ** exponent;
  const y = linear(0, top > 0 ? top : 1, floor, ceiling);
  for (const tick of ticks(0, (top > 0 ? top : 1) / factor)) {
    const at = y(tick * factor);
    svg.append(draw("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: at, y2: at }));
    svg.append(text(LEFT - 8, at + 4, String(tick), "end"));
  }
  svg.append(text(0, 14, exponent ? `${name}, in ${powerOfTen(exponent)}` : name, "label"));
  return y;
}

function bar(svg, kind, center, width, y, floor, value, title) {
  const top = Math.min(y(value), floor - 1);
  const shape = draw("rect", { class: `bar ${kind}`, x: center - width / 2, width, y: top, height: floor - top, "data-value": value }, draw("title", {}, title));
  svg.append(shape);
}

// s_i along the rationale: early tokens, then late ones above beta and not. Bars far above beta are cut and labelled.
function influenceChart(instance) {
  const { influence, beta } = instance.decision;
  const tokens = instance.first.tokens.length === influence.length ? instance.first.tokens : influence.map((_, at) => String(at));
  const middle = Math.floor(influence.length / 2);
  const step = Math.min(Math.max(900 / influence.length, 15), 30);
  const width = Math.max(Math.ceil(LEFT + step * influence.length + 3 * RIGHT), 400);
  const [ceiling, floor] = [48, 200];
  const largest = Math.max(...influence);
  const top = beta > 0 && largest > TALLEST * beta ? TALLEST * beta : Math.max(largest, beta ?? 0) * 1.05;
  const names = tokens.map((token) => label(token));
  const height = floor + 16 + 7.5 * Math.max(...names.map((name) => [...name].length));
  const late = influence.slice(middle);
  const above = beta === null ? 0 : late.filter((value) => value > beta).length;
  const name = `Influence of the soft prompt on each of ${influence.length} rationale tokens; ${above} of the ${late.length} late ones are above beta.`;
  const svg = canvasOf(width, height, name);
  const y = valueAxis(svg, top, floor, ceiling, width, "influence of the soft prompt on each token");
  const x = (at) => Math.round((LEFT + step * (at + 0.5)) * 10) / 10;
  influence.forEach((value, at) => {
    const kind = at < middle ? "early" : beta !== null && value > beta ? "chosen" : "";
    bar(svg, kind, x(at), step * 0.72, y, floor, value, `${quoted(tokens[at])} ${written(value)}`);
    if (value > top) svg.append(text(x(at), ceiling - 5, `${Math.round(value / beta)}β`, "token middle"));
    svg.append(text(x(at), floor + 8, names[at], "token end central", { transform: `rotate(-90 ${x(at)} ${floor + 8})` }));
  });
  const border = x(middle - 0.5);
  svg.append(draw("line", { class: "border", x1: border, x2: border, y1: ceiling - 24, y2: floor }));
  svg.append(text(border - 6, ceiling - 17, "early", "end"), text(border + 6, ceiling - 17, "late"));
  if (beta !== null) {
    svg.append(draw("line", { class: "beta", x1: LEFT, x2: width - 2 * RIGHT, y1: y(beta), y2: y(beta), "data-value": beta }));
    svg.append(text(width - 2 * RIGHT + 4, y(beta) + 4, "β", "strong"));
  }
  const caption = [
    "s", el("sub", {}, "i"), ": the last layer’s saliency from the soft prompt to each token of the first rationale. ",
    beta === null ? "" : `Dashed: β\u00a0=\u00a0${written(beta)}, the mean over the early half (grey). ${above} of the ${late.length} late tokens are above it (orange).`,
    beta > 0 && largest > TALLEST * beta ? ` Bars beyond ${TALLEST}β are cut and carry their value.` : "",
  ];
  const rows = () => influence.map((value, at) => [String(at), foreign(tokens[at]), at < middle ? "early" : "late", written(value), beta > 0 ? (value / beta).toFixed(2) : "–"]);
  return figure(scrolling("Influence along the rationale", svg), caption, [numbers(["position", "token", "half", "s", "s / β"], rows, "Influence of the soft prompt on each rationale token")]);
}

// The scale of a statistic: R is a share; of another one, its values here with a margin.
function statisticRange({ trigger, statistic, threshold }) {
  if (trigger === "flow") return [0, 1];
  const known = [statistic, threshold].filter((value) => Math.abs(value) < UNBOUNDED);
  const margin = (Math.max(...known) - Math.min(...known)) * 0.25 || Math.abs(statistic) * 0.25 || 1;
  return [Math.min(...known) - margin, Math.max(...known) + margin];
}

// The statistic of a decision as a bar, and the threshold as a line.
function statisticChart(decision) {
  const { trigger, symbol, statistic, threshold, triggered } = decision;
  const [width, top, floor] = [440, 34, 62];
  const [value, limit] = [statisticWords(statistic, threshold, trigger), statisticWords(threshold, statistic, trigger)];
  const svg = canvasOf(width, 100, `${symbol} is ${value}, the threshold tau is ${limit}.`);
  const [low, high] = statisticRange(decision);
  const x = linear(low, high, LEFT, width - RIGHT);
  svg.append(draw("rect", { class: "whole", x: x(low), width: x(high) - x(low), y: top, height: floor - top }));
  svg.append(draw("rect", { class: triggered ? "bar chosen" : "bar", x: x(low), width: x(statistic) - x(low), y: top, height: floor - top, "data-value": statistic }));
  for (const tick of ticks(low, high)) svg.append(text(x(tick), floor + 17, written(tick), "middle"));
  svg.append(draw("line", { class: "threshold", x1: x(threshold), x2: x(threshold), y1: top - 12, y2: floor + 4, "data-value": threshold }));
  const right = x(threshold) > width / 2;
  svg.append(text(x(threshold) + (right ? -6 : 6), top - 6, `τ = ${limit}`, right ? "strong end" : "strong"));
  svg.append(text((LEFT + width - RIGHT) / 2, floor + 35, trigger === "flow" ? "R, share of late tokens above β" : symbol, "label middle"));
  return svg;
}

// S_acc(j) of every virtual token, the key token and the line of Eq 7.
function profileChart(instance) {
  const { k } = instance;
  const { profile, key } = instance.decision;
  const [width, ceiling, floor] = [440, 44, 180];
  const mean = profile.reduce((sum, value) => sum + value, 0) / profile.length;
  const largest = Math.max(...profile);
  const name = `Saliency that each of ${profile.length} virtual tokens gathers` + (key === null ? "." : `; the key token is number ${key}.`);
  const svg = canvasOf(width, floor + 44, name);
  const y = valueAxis(svg, Math.max(largest, k * mean) * 1.05, floor, ceiling, width, "accumulated saliency");
  const step = (width - RIGHT - LEFT) / profile.length;
  const x = (at) => LEFT + step * (at + 0.5);
  profile.forEach((value, at) => bar(svg, at === key ? "chosen" : "", x(at), Math.max(step * 0.72, 1), y, floor, value, `virtual token ${at}: ${written(value)}`));
  const each = Math.max(1, Math.ceil(profile.length / 10));
  for (let at = 0; at < profile.length; at += each) svg.append(text(x(at), floor + 16, String(at), "middle"));
  svg.append(draw("line", { class: "beta", x1: LEFT, x2: width - RIGHT, y1: y(k * mean), y2: y(k * mean), "data-value": k * mean }));
  const left = key !== null && key >= profile.length / 2;
  svg.append(text(left ? LEFT + 4 : width - RIGHT, y(k * mean) - 5, `${k} × mean`, left ? "strong" : "strong end"));
  if (key !== null) svg.append(text(x(key), ceiling - 10, `key: ${key}`, x(key) > width / 2 ? "strong end" : "strong"));
  svg.append(text((LEFT + width - RIGHT) / 2, floor + 36, "virtual token, counted from 0", "label middle"));
  const caption = [
    "S", el("sub", {}, "acc"), "(j): saliency that each virtual token gathers from question and rationale in the shallow layers. ",
    mean > 0 ? `The largest is ${(largest / mean).toFixed(1)} times the mean: information ${largest > k * mean ? "accumulates" : "does not accumulate"} by Eq 7 with k\u00a0=\u00a0${k}.` : "",
  ];
  const rows = () => profile.map((value, at) => [String(at), written(value), mean > 0 ? (value / mean).toFixed(2) : "–"]);
  return figure(svg, caption, [numbers(["virtual token", "S acc", "times the mean"], rows, "Saliency gathered by each virtual token")]);
}

// One value per layer, two curves; ``choose`` is called with the place of the layer that is clicked.
function layerCurves(flow, quantity, choose) {
  const curves = flow.curves[quantity];
  const [width, ceiling, floor] = [340, 40, 170];
  const largest = Math.max(0, ...curves.question, ...curves.rationale);
  const svg = canvasOf(width, floor + 44, `Mean ${quantity} from prompt to question and to rationale in each of ${flow.layers.length} layers.`);
  const y = valueAxis(svg, largest * 1.05, floor, ceiling, width, `mean ${quantity} from the prompt`);
  const x = linear(0, Math.max(flow.layers.length - 1, 1), LEFT + 10, width - RIGHT - 10);
  const each = Math.max(1, Math.ceil(flow.layers.length / 8));
  flow.layers.forEach((layer, at) => at % each === 0 && svg.append(text(x(at), floor + 16, String(layer), "middle")));
  svg.append(text((LEFT + width - RIGHT) / 2, floor + 36, "layer, counted from 0", "label middle"));
  const cursor = draw("line", { class: "cursor", y1: ceiling, y2: floor });
  svg.append(cursor);
  for (const [name, kind] of [["question", "first"], ["rationale", "other"]]) {
    if (!curves[name].length) continue;
    svg.append(draw("polyline", { class: `line ${kind}`, points: curves[name].map((value, at) => `${x(at)},${y(value)}`).join(" ") }));
    curves[name].forEach((value, at) => {
      const title = draw("title", {}, `prompt to ${name}, layer ${flow.layers[at]}: ${written(value)}`);
      const place = { class: `dot ${kind}`, "data-value": value };
      svg.append(kind === "first" ? draw("circle", { ...place, cx: x(at), cy: y(value), r: 3.5 }, title) : draw("rect", { ...place, x: x(at) - 3, y: y(value) - 3, width: 6, height: 6 }, title));
    });
  }
  svg.addEventListener("click", (event) => {
    const box = svg.getBoundingClientRect();
    const at = (((event.clientX - box.left) / box.width) * width - LEFT - 10) / (width - RIGHT - LEFT - 20);
    choose(Math.min(Math.max(Math.round(at * (flow.layers.length - 1)), 0), flow.layers.length - 1));
  });
  const mark = (at) => fill(cursor, { x1: x(at), x2: x(at) }, []);
  const key = [el("span", { class: "key first" }, "prompt → question"), " ", el("span", { class: "key other" }, "prompt → rationale")];
  const rows = () => flow.layers.map((layer, at) => [String(layer), ...["question", "rationale"].map((name) => (curves[name].length ? written(curves[name][at]) : "–"))]);
  const view = figure(svg, key, [numbers(["layer", "prompt to question", "prompt to rationale"], rows, `Mean ${quantity} in each layer`)]);
  return { view, mark };
}
