// The heat map of one instance: how much each token reads from each other token, layer by layer.

const MARGIN = { left: 108, top: 100, right: 6, bottom: 4 };
const CELL = [5, 15];
const LABEL = 10;
const MOST_READ = 8;
const decoded = new WeakMap();

function decode(flow) {
  if (!decoded.has(flow)) decoded.set(flow, Promise.all(["saliency", "attention"].map(async (name) => [name, await readMap(flow, name)])).then(Object.fromEntries));
  return decoded.get(flow);
}

// Everything that the flow of ``instance`` can show, as one element.
function flowView(instance) {
  const place = el("div", { class: "flow" }, el("p", { class: "quiet" }, "Unpacking the maps."));
  decode(instance.flow).then(
    (maps) => place.replaceChildren(...new FlowView(instance, maps).parts()),
    () => place.replaceChildren(el("p", {}, "This browser can’t unpack the maps: it has no DecompressionStream.")),
  );
  return place;
}

class FlowView {
  constructor(instance, maps) {
    this.instance = instance;
    this.flow = instance.flow;
    this.maps = maps;
    this.first = this.flow.groups[1][1];
    this.keyToken = instance.decision?.key ?? null;
    this.state = { layer: this.flow.opens, quantity: "saliency", scale: "log", span: "layer", row: null, column: null, picked: 0 };
    this.state.picked = this.lastReader();
    this.base = el("canvas", {});
    this.overlay = el("canvas", { class: "overlay" });
    this.readout = el("p", { class: "readout", role: "status" });
    this.reading = el("div", { class: "reading" });
    this.curves = el("div", {});
    this.legend = el("div", { class: "legend" });
    this.layerName = el("output", {});
  }

  parts() {
    this.slider = el("input", { type: "range", min: 0, max: this.flow.layers.length - 1, step: 1, value: this.state.layer, oninput: () => this.set({ layer: Number(this.slider.value) }) });
    const controls = el(
      "div",
      { class: "controls" },
      el("label", { class: "slider" }, "layer ", this.slider, this.layerName),
      choices("show", [["saliency", "saliency"], ["attention", "attention"]], "saliency", (quantity) => this.set({ quantity })),
      choices("scale", [["log", "log"], ["linear", "linear"]], "log", (scale) => this.set({ scale })),
      choices("colours span", [["layer", "this layer"], ["all", "all layers"]], "layer", (span) => this.set({ span })),
    );
    const help = el("p", { class: "note", id: freshId("help") }, "A row is a token that reads, a column one that is read. Point at a cell for its value. Click a row, or move with the arrow keys and press Enter, to see what its token read from. Page up and page down change the layer.", this.pooled());
    this.region = el("div", { class: "scroll map", tabindex: "0", role: "application", "aria-roledescription": "heat map", "aria-label": "Heat map of the flow between tokens", "aria-describedby": help.id }, el("div", { class: "layers" }, this.base, this.overlay));
    this.listen();
    const side = el("div", { class: "side" }, this.curves, this.reading);
    new ResizeObserver(() => this.redraw()).observe(this.region);
    const repaint = () => (this.region.isConnected ? this.redraw() : dark.removeEventListener("change", repaint));
    dark.addEventListener("change", repaint);
    this.set({});
    return [controls, this.legend, el("div", { class: "plots" }, el("div", { class: "plot" }, this.region, this.readout, help), side)];
  }

  pooled() {
    const { pool, tokens } = this.flow;
    return pool === 1 ? "" : ` Down-sampled: each cell is the largest of ${pool} × ${pool} positions, of ${tokens.length}.`;
  }

  listen() {
    const region = this.region;
    this.overlay.addEventListener("pointermove", (event) => this.point(this.cellAt(event)));
    this.overlay.addEventListener("pointerleave", () => this.point(null));
    this.overlay.addEventListener("click", (event) => {
      const cell = this.cellAt(event);
      if (cell) this.pick(cell.row);
    });
    region.addEventListener("keydown", (event) => this.key(event));
    region.addEventListener("focus", () => this.state.row === null && region.matches(":focus-visible") && this.point({ row: this.map().rows - 1, column: 0 }));
  }

  // The last row with a value: the token after the last one is not in the loss, so the last row is empty.
  lastReader() {
    const { rows, columns, code } = this.map();
    const reads = (row) => Array.from({ length: columns }, (_, column) => code(this.state.layer, row, column)).some(Boolean);
    return Array.from({ length: rows }, (_, at) => rows - 1 - at).find(reads) ?? rows - 1;
  }

  map() {
    return this.maps[this.state.quantity];
  }

  set(change) {
    const before = this.state;
    this.state = { ...before, ...change };
    const { layer, quantity } = this.state;
    this.slider.value = layer;
    this.slider.setAttribute("aria-valuetext", `layer ${this.flow.layers[layer]}`);
    this.layerName.textContent = `${this.flow.layers[layer]} of ${this.flow.layers.at(-1)}`;
    if (before.quantity !== quantity || !this.markLayer) {
      const { view, mark } = layerCurves(this.flow, quantity, (at) => this.set({ layer: at }));
      this.curves.replaceChildren(view);
      this.markLayer = mark;
    }
    this.markLayer(layer);
    this.redraw();
    this.tell();
  }

  // The colour scale: ``part`` of a code, and the values at its ends.
  scaling() {
    const { layer, scale, span } = this.state;
    const { rows, columns, values, code } = this.map();
    let top = 255;
    if (span === "layer") {
      top = 0;
      for (let row = 0; row < rows; row += 1) for (let column = 0; column < columns; column += 1) top = Math.max(top, code(layer, row, column));
    }
    const high = values[top];
    const low = scale === "log" ? values[1] : 0;
    const part = (value) => (high <= low ? Number(value > 0) : scale === "log" ? Math.log(Math.max(value, low) / low) / Math.log(high / low) : value / high);
    return { low, high, part };
  }

  redraw() {
    if (!this.region.clientWidth) return;
    const { rows, columns, values, code } = this.map();
    const { layer } = this.state;
    const wide = (this.region.clientWidth - MARGIN.left - MARGIN.right) / columns;
    this.cell = Math.min(Math.max(Math.floor(wide), CELL[0]), CELL[1]);
    const size = { width: MARGIN.left + columns * this.cell + MARGIN.right, height: MARGIN.top + rows * this.cell + MARGIN.bottom };
    const context = this.sized(this.base, size);
    const { low, high, part } = this.scaling();
    const colours = Array.from({ length: 256 }, (_, each) => colourAt(part(values[each])));
    const image = new ImageData(columns, rows);
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column <= row + this.first; column += 1) {
        image.data.set([...colours[code(layer, row, column)], 255], 4 * (row * columns + column));
      }
    }
    const small = el("canvas", { width: columns, height: rows });
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, MARGIN.left, MARGIN.top, columns * this.cell, rows * this.cell);
    this.axes(context, rows, columns);
    this.drawLegend(low, high);
    this.drawCursor();
  }

  sized(canvas, { width, height }) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.font = `${LABEL}px system-ui, "Segoe UI", Roboto, Arial, sans-serif`;
    return context;
  }

  axes(context, rows, columns) {
    const [ink, quiet, orange] = ["--ink", "--quiet", "--orange"].map(styled);
    const every = Math.ceil(LABEL / this.cell);
    context.textBaseline = "middle";
    context.fillStyle = ink;
    for (let row = 0; row < rows; row += every) {
      context.textAlign = "right";
      context.fillText(this.name(row + this.first), MARGIN.left - 6, MARGIN.top + (row + 0.5) * this.cell, MARGIN.left - 26);
    }
    const first = this.keyToken === null ? 0 : this.keyColumn() % every;
    for (let column = first; column < columns; column += every) this.upright(context, "left", this.name(column), MARGIN.left + (column + 0.5) * this.cell, MARGIN.top - 12);
    this.flow.groups.forEach(([name, start, stop], at) => {
      const [from, to] = [MARGIN.left + start * this.cell, MARGIN.left + stop * this.cell];
      context.fillStyle = quiet;
      context.textAlign = "center";
      if (to - from > context.measureText(name).width) context.fillText(name, (from + to) / 2, 8);
      context.fillRect(from + 1, 16, to - from - 2, 1.5);
      if (at) {
        context.fillStyle = ink;
        context.fillRect(from - 0.5, MARGIN.top, 1, rows * this.cell);
        const [above, below] = [MARGIN.top + (start - this.first) * this.cell, MARGIN.top + (stop - this.first) * this.cell];
        if (at > 1) context.fillRect(MARGIN.left, above - 0.5, columns * this.cell, 1);
        context.fillStyle = quiet;
        context.fillRect(16, above + 1, 1.5, below - above - 2);
        if (below - above > context.measureText(name).width) this.upright(context, "center", name, 8, (above + below) / 2);
      }
    });
    context.fillStyle = orange;
    for (const token of this.flow.gathering[this.state.quantity][this.state.layer]) this.triangle(context, Math.floor(token / this.flow.pool));
    if (this.keyToken !== null) this.markKey(context, rows);
  }

  keyColumn() {
    return Math.floor(this.keyToken / this.flow.pool);
  }

  // The key token's column: a frame, and its name in the same colour.
  markKey(context, rows) {
    const column = this.keyColumn();
    context.strokeStyle = context.fillStyle = styled("--blue");
    context.lineWidth = 2;
    context.strokeRect(MARGIN.left + column * this.cell - 1, MARGIN.top - 1, this.cell + 2, rows * this.cell + 2);
    this.upright(context, "left", this.name(column), MARGIN.left + (column + 0.5) * this.cell, MARGIN.top - 12);
  }

  name(column) {
    const [start, stop] = this.flow.bins[column];
    return stop - start === 1 ? label(this.flow.tokens[start]) : `${label(this.flow.tokens[start], 8)}…`;
  }

  upright(context, align, words, x, y) {
    context.save();
    context.textAlign = align;
    context.translate(x, y);
    context.rotate(-Math.PI / 2);
    context.fillText(words, 0, 0, MARGIN.top - 34);
    context.restore();
  }

  triangle(context, column) {
    const x = MARGIN.left + (column + 0.5) * this.cell;
    context.beginPath();
    context.moveTo(x - 4, MARGIN.top - 9);
    context.lineTo(x + 4, MARGIN.top - 9);
    context.lineTo(x, MARGIN.top - 2);
    context.fill();
  }

  drawLegend(low, high) {
    const bar = el("canvas", { width: 128, height: 1, "aria-hidden": "true" });
    const context = bar.getContext("2d");
    for (let x = 0; x < 128; x += 1) {
      context.fillStyle = `rgb(${colourAt(x / 127).join(" ")})`;
      context.fillRect(x, 0, 1, 1);
    }
    const { quantity, layer, scale } = this.state;
    const tokens = this.flow.gathering[quantity][layer];
    const marked = tokens.length ? `virtual ${tokens.length === 1 ? "token" : "tokens"} ${tokens.join(", ")}` : "no virtual token";
    const key = this.keyToken === null ? "" : el("span", { class: "key-column" }, el("span", { class: "frame", "aria-hidden": "true" }), ` key token of the corruption: virtual token ${this.keyToken}`);
    const from = scale === "log" ? `≤ ${written(low)}` : "0";
    const { error, low: bottom } = this.map();
    this.legend.replaceChildren(
      el("span", { class: "ramp" }, el("span", {}, from), bar, el("span", {}, written(high))),
      el("span", { class: "marks" }, el("span", { class: "triangle", "aria-hidden": "true" }, "▼"), ` gathers more than ${this.instance.k} times the mean of the virtual tokens in this layer: ${marked}`),
      key,
      el("span", { class: "quiet" }, `Values are accurate to ±${(100 * error).toFixed(1)}%; those under ${written(bottom)} are shown as ${written(bottom)}.`),
    );
  }

  cellAt(event) {
    const box = this.overlay.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - MARGIN.left) / this.cell);
    const row = Math.floor((event.clientY - box.top - MARGIN.top) / this.cell);
    const { rows, columns } = this.map();
    if (row < 0 || row >= rows || column >= columns) return null;
    return { row, column: Math.max(column, 0) };
  }

  point(cell) {
    this.state = { ...this.state, row: cell?.row ?? null, column: cell?.column ?? null };
    this.drawCursor();
    this.tell();
  }

  pick(row) {
    this.state = { ...this.state, picked: row };
    this.drawCursor();
    this.tell();
  }

  key(event) {
    const { rows, columns } = this.map();
    const { row, column, layer } = this.state;
    const last = this.flow.layers.length - 1;
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -columns], End: [0, columns] };
    if (moves[event.key]) {
      const [down, right] = moves[event.key];
      const clamp = (value, top) => Math.min(Math.max(value, 0), top);
      const next = clamp((row ?? rows - 1) + down, rows - 1);
      this.point({ row: next, column: clamp((column ?? 0) + right, next + this.first) });
      this.follow();
    } else if (event.key === "PageUp") this.set({ layer: Math.min(layer + 1, last) });
    else if (event.key === "PageDown") this.set({ layer: Math.max(layer - 1, 0) });
    else if ((event.key === "Enter" || event.key === " ") && row !== null) this.pick(row);
    else return;
    event.preventDefault();
  }

  // Scroll the cell that the keys moved to into view.
  follow() {
    const { row, column } = this.state;
    const x = MARGIN.left + column * this.cell;
    const y = MARGIN.top + row * this.cell;
    const region = this.region;
    region.scrollLeft = Math.min(Math.max(region.scrollLeft, x + 40 - region.clientWidth), Math.max(x - 40, 0));
    region.scrollTop = Math.min(Math.max(region.scrollTop, y + 40 - region.clientHeight), Math.max(y - 40, 0));
  }

  drawCursor() {
    const size = { width: parseFloat(this.base.style.width), height: parseFloat(this.base.style.height) };
    const context = this.sized(this.overlay, size);
    const { row, column, picked } = this.state;
    const wide = this.map().columns * this.cell;
    const frame = (at, colour) => {
      context.strokeStyle = colour;
      context.lineWidth = 1.5;
      context.strokeRect(MARGIN.left - 0.5, MARGIN.top + at * this.cell - 0.5, wide + 1, this.cell + 1);
    };
    frame(picked, styled("--orange"));
    if (row === null) return;
    frame(row, styled("--quiet"));
    context.strokeRect(MARGIN.left + column * this.cell - 0.5, MARGIN.top - 0.5, this.cell + 1, this.map().rows * this.cell + 1);
    context.strokeStyle = styled("--orange");
    context.lineWidth = 2;
    context.strokeRect(MARGIN.left + column * this.cell - 1, MARGIN.top + row * this.cell - 1, this.cell + 2, this.cell + 2);
  }

  // The value of a cell in words; of values under the lowest one only that is known.
  worded(code) {
    return code === 1 ? `≤ ${written(this.map().low)}` : written(this.map().values[code]);
  }

  // A column in words: its token, its group, and its place in it.
  spoken(column) {
    const [start, stop] = this.flow.bins[column];
    const [group, first] = this.flow.groups.find(([, , end]) => column < end);
    const origin = this.flow.bins[first][0];
    const place = stop - start === 1 ? String(start - origin) : `${start - origin} to ${stop - 1 - origin}`;
    const name = stop - start === 1 ? quoted(this.flow.tokens[start]) : `${quoted(this.flow.tokens[start])} to ${quoted(this.flow.tokens[stop - 1])}`;
    return group === "prompt" ? `virtual token ${place}` : `${name} (${group} ${place})`;
  }

  tell() {
    const { row, column, layer, quantity, picked } = this.state;
    const { code } = this.map();
    if (row === null) this.readout.textContent = "\u00a0";
    else if (column > row + this.first) this.readout.textContent = `${this.spoken(row + this.first)} can’t read ${this.spoken(column)}, which comes later.`;
    else this.readout.textContent = `Layer ${this.flow.layers[layer]}: ${this.spoken(row + this.first)} reads ${this.spoken(column)}: ${quantity} ${this.worded(code(layer, row, column))}`;
    this.tellReading(picked);
  }

  // What the picked token read from: the sequence up to it, shaded, and the columns it reads most.
  tellReading(picked) {
    const { layer, quantity } = this.state;
    const { values, code, low } = this.map();
    const { part } = this.scaling();
    const { pool } = this.flow;
    const read = Array.from({ length: picked + this.first + 1 }, (_, column) => code(layer, picked, column));
    const total = read.reduce((sum, each) => sum + values[each], 0);
    const most = read.map((each, column) => [each, column]).filter(([each]) => each > 1).sort(([a], [b]) => b - a).slice(0, MOST_READ);
    const nothing = read.some(Boolean) ? `Nothing that it read is over ${written(low)}.` : `All its ${quantity} is 0 here.`;
    const told = most.length ? `The ${most.length} largest${pool === 1 ? `, with their share of the row’s ${quantity}` : ""}.` : nothing;
    const strip = el("p", { class: "strip", dir: "auto" });
    read.forEach((each, column) => {
      const colour = colourAt(part(values[each]));
      const piece = el("bdi", { title: `${this.spoken(column)}: ${this.worded(each)}` }, this.name(column));
      piece.style.backgroundColor = `rgb(${colour.join(" ")})`;
      piece.style.color = readableOn(colour);
      strip.append(piece, " ");
    });
    this.reading.replaceChildren(
      el("h5", {}, `What ${this.spoken(picked + this.first)} read from in layer ${this.flow.layers[layer]}`),
      strip,
      el("ol", {}, most.map(([each, column]) => el("li", {}, `${this.spoken(column)}: ${this.worded(each)}`, el("span", { class: "quiet" }, pool === 1 ? `, ${Math.round((100 * values[each]) / total)}%` : "")))),
      el("p", { class: "note" }, `${told} Click another row of the map for another token.`),
    );
  }
}
