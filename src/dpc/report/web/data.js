// The payload of a page as values: instances, the texts of their tokens, and maps as numbers.

// ``json`` is what ``payload`` of page_data.py returns.
function readPayload(json) {
  const read = (pass) => pass && { ...pass, tokens: pass.tokens.map((place) => json.vocabulary[place]) };
  const instances = json.instances.map((each) => ({
    ...each,
    k: json.k,
    get first() {
      return read(each.first);
    },
    get second() {
      return read(each.second);
    },
  }));
  return { k: json.k, instances };
}

// The answer that counts: the second one where the method triggered.
function finalPass(instance) {
  return instance.second && instance.decision?.triggered !== false ? instance.second : instance.first;
}

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// One quantity of a flow: ``code(layer, row, column)``, and the value that a code stands for.
async function readMap(flow, name) {
  const { low, high, error, data } = flow.maps[name];
  const columns = flow.bins.length;
  const rows = columns - flow.groups[1][1];
  const codes = await inflate(data);
  const value = (code) => (code ? low * (high / low) ** ((code - 1) / 254) : 0);
  const values = Float64Array.from({ length: 256 }, (_, code) => value(code));
  const code = (layer, row, column) => codes[(layer * rows + row) * columns + column];
  return { low, high, error, rows, columns, values, code };
}

const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

function powerOfTen(exponent) {
  return "10" + [...String(exponent)].map((character) => SUPERSCRIPTS[character]).join("");
}

// A figure without a unit, three significant digits, as the tables write it.
function written(value) {
  if (value === 0) return "0";
  const exponent = Math.floor(Math.log10(Math.abs(value)) + 1e-12);
  if (exponent >= -4 && exponent < 6) return String(Number(value.toPrecision(3))).replace("-", "−");
  const [mantissa, power] = value.toExponential(2).split("e");
  return `${Number(mantissa)}\u00a0×\u00a0${powerOfTen(Number(power))}`.replace(/^-/, "−");
}

// A share with two decimals, with four where two would hide on which side of ``other`` it is.
function share(value, other = null) {
  const short = value.toFixed(2);
  return other !== null && value !== other && short === other.toFixed(2) ? value.toFixed(4) : short;
}

// The largest floats stand for the thresholds "always" and "never" of a statistic without bounds.
const UNBOUNDED = 1e300;

// A decision's statistic or threshold in words.
function statisticWords(value, other, trigger) {
  if (trigger === "flow") return share(value, other);
  return Math.abs(value) < UNBOUNDED ? written(value) : value < 0 ? "−∞" : "∞";
}

// A token as a label: white space is shown if there is nothing else, control characters are left out, long ones cut.
function label(token, longest = 12) {
  const text = token.trim().replace(/[\p{Cc}\p{Cf}\p{Cs}]/gu, "");
  if (!text) return token.includes("\n") ? "↵" : "␣";
  const characters = [...text];
  return characters.length <= longest ? text : characters.slice(0, longest - 1).join("") + "…";
}

// A token in a sentence: quoted, and isolated, so that its direction does not change that of the sentence.
function quoted(token) {
  return `‘\u2068${label(token, 40)}\u2069’`;
}
