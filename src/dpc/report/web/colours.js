// One sequential scale for maps. Its lightness is monotonic and its hues are blue and yellow, so that it can be read with
// any colour vision and in grey. Large values are dark on a light page, and light on a dark one.

const STOPS = {
  light: ["#fbf5dc", "#f0d778", "#b3a57c", "#6b7189", "#233f74", "#0a1a40"],
  dark: ["#1c212c", "#2a3f69", "#69728a", "#aba083", "#eed474", "#fff7c8"],
};

const dark = window.matchMedia("(prefers-color-scheme: dark)");

function scheme() {
  return dark.matches ? "dark" : "light";
}

// The colour of ``part`` (0 to 1) as [red, green, blue].
function colourAt(part) {
  const stops = STOPS[scheme()];
  const place = Math.min(Math.max(part, 0), 1) * (stops.length - 1);
  const at = Math.min(Math.floor(place), stops.length - 2);
  const channel = (stop, from) => parseInt(stops[stop].slice(from, from + 2), 16);
  return [1, 3, 5].map((from) => Math.round(channel(at, from) + (place - at) * (channel(at + 1, from) - channel(at, from))));
}

// Black or white, whichever can be read on ``colour``.
function readableOn([red, green, blue]) {
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#14161a" : "#ffffff";
}

// The value of a custom property of the style sheet, for what is drawn on a canvas.
function styled(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
