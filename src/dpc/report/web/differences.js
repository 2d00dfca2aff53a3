// Two texts compared word by word: which words of each are in a longest common subsequence of both.

const WORDS = /\s+|[\p{L}\p{M}]+|\p{N}+(?:[.,]\p{N}+)*|[^\s\p{L}\p{M}\p{N}]/gu;
const MOST_PAIRS = 4_000_000;

function words(text) {
  return text.match(WORDS) ?? [];
}

// For each text its runs ``[characters, common]``; longer texts than ``MOST_PAIRS`` allows are compared by line.
function compared(first, second) {
  let [a, b] = [words(first), words(second)];
  if (a.length * b.length > MOST_PAIRS) [a, b] = [first.match(/[^\n]*\n?/g), second.match(/[^\n]*\n?/g)];
  if (a.length * b.length > MOST_PAIRS) return [[[first, false]], [[second, false]]];
  const [inFirst, inSecond] = common(a, b);
  return [runs(a, inFirst), runs(b, inSecond)];
}

function common(a, b) {
  const width = b.length + 1;
  const lengths = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      const here = i * width + j;
      lengths[here] = a[i] === b[j] ? lengths[here + width + 1] + 1 : Math.max(lengths[here + width], lengths[here + 1]);
    }
  }
  const inFirst = Array(a.length).fill(false);
  const inSecond = Array(b.length).fill(false);
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    const here = i * width + j;
    if (a[i] === b[j]) {
      inFirst[i++] = true;
      inSecond[j++] = true;
    } else if (lengths[here + width] >= lengths[here + 1]) i += 1;
    else j += 1;
  }
  return [inFirst, inSecond];
}

function runs(pieces, shared) {
  const found = [];
  pieces.forEach((piece, at) => {
    const last = found.at(-1);
    if (last && last[1] === shared[at]) last[0] += piece;
    else found.push([piece, shared[at]]);
  });
  return found;
}
