/* Numbers as words, and drawings: what the page of shmflow view is made of.
 *
 * Owns:      the spelling of numbers, the colours of page.css, plots, histograms, the ring.
 * Does not:  ask for anything, or know what a topic's card looks like (page.js).
 */

export const HOLDERS = 8; // colours of holders in page.css
export const colours = new Map(); // of page.css, as far as they were asked for

// ---- numbers, as the command line spells them ----

export function size(bytes) {
  let unit = 0;
  while (bytes >= 1024 && unit < 4) {
    bytes /= 1024;
    unit++;
  }
  return `${bytes.toFixed(unit && bytes < 100 ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

export function rate(hz) {
  if (hz >= 1e6) return `${(hz / 1e6).toFixed(2)} M`;
  return hz >= 1000 || hz === 0 ? Math.round(hz).toLocaleString("en") : hz.toFixed(hz >= 10 ? 1 : 2);
}

export function span(seconds) {
  if (seconds === null) return "–";
  for (const [unit, long] of [["d", 86400], ["h", 3600], ["min", 60]])
    if (seconds >= 2 * long) return `${Math.round(seconds / long)} ${unit}`;
  for (const [unit, short] of [["s", 1], ["ms", 1e-3]])
    if (seconds >= short) return `${(seconds / short).toFixed(seconds < 100 * short ? 1 : 0)} ${unit}`;
  return `${Math.round(seconds * 1e6)} µs`;
}

function number(value) {
  return Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3)
    ? value.toExponential(2) : String(+value.toPrecision(4));
}

export function colour(name) {
  if (!colours.has(name))
    colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return colours.get(name);
}

export function element(tag, text = "", name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = name;
  return made;
}

// ---- drawings ----

/* A canvas cleared, at the resolution of the screen: [context, width, height] in CSS pixels. */
function sheet(canvas) {
  const width = canvas.clientWidth, height = canvas.clientHeight, dots = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * dots) || canvas.height !== Math.round(height * dots)) {
    canvas.width = Math.round(width * dots);
    canvas.height = Math.round(height * dots);
  }
  const context = canvas.getContext("2d");
  context.setTransform(dots, 0, 0, dots, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "11px system-ui, sans-serif";
  return [context, width, height];
}

export function drawSpark(canvas, values) {
  const [c, width, height] = sheet(canvas);
  const top = Math.max(...values, 1e-9), step = width / 119, start = width - step * (values.length - 1);
  c.beginPath();
  values.forEach((v, i) => c.lineTo(start + i * step, height - 2 - (v / top) * (height - 4)));
  c.strokeStyle = colour("--accent");
  c.lineWidth = 1.5;
  c.stroke();
  c.lineTo(width, height);
  c.lineTo(start, height);
  c.globalAlpha = 0.15;
  c.fillStyle = colour("--accent");
  c.fill();
  c.globalAlpha = 1;
}

export function drawPlot(canvas, told) {
  const [c, width, height] = sheet(canvas);
  const left = 56, bottom = 20, right = width - 8, wide = right - left, tall = height - bottom - 10;
  let { low, high } = told;
  c.fillStyle = colour("--quiet");
  if (low === null) {
    c.fillText("no finite value", left, height / 2);
    return;
  }
  if (low === high) [low, high] = [low - 1, high + 1];
  const y = (v) => 10 + tall - ((v - low) / (high - low)) * tall;
  c.strokeStyle = colour("--line");
  c.lineWidth = 1;
  for (let i = 0; i <= 4; i++) {
    const value = low + ((high - low) * i) / 4;
    c.beginPath();
    c.moveTo(left, y(value));
    c.lineTo(right, y(value));
    c.stroke();
    c.textAlign = "right";
    c.fillText(number(value), left - 6, y(value) + 4);
  }
  c.textAlign = "left";
  c.fillText("0", left, height - 5);
  c.textAlign = "right";
  c.fillText(String(told.length - 1), right, height - 5);
  told.lines.forEach((line, at) => {
    const step = wide / Math.max(1, line.length - 1);
    c.beginPath();
    let pen = false;
    line.forEach((value, i) => {
      if (value === null) pen = false;
      else if (pen) c.lineTo(left + i * step, y(value));
      else {
        c.moveTo(left + i * step, y(value));
        pen = true;
      }
    });
    c.strokeStyle = at ? colour(`--c${(at - 1) % HOLDERS}`) : colour("--accent");
    c.lineWidth = 1.4;
    c.stroke();
  });
}

export function drawAges(canvas, { edges, counts }) {
  const [c, width, height] = sheet(canvas);
  const top = Math.max(...counts, 1), each = width / counts.length, foot = height - 16;
  counts.forEach((n, i) => {
    c.fillStyle = colour(n ? "--accent" : "--track");
    const tall = n ? Math.max(2, (n / top) * (foot - 4)) : 2;
    c.fillRect(i * each + 1, foot - tall, each - 2, tall);
  });
  c.fillStyle = colour("--quiet");
  c.textAlign = "center";
  [1e-3, 1e-2, 0.1, 1].forEach((edge) => {
    const at = (edges.indexOf(edge) + 1) * each;
    c.fillText(edge < 1 ? `${edge * 1000} ms` : "1 s", Math.min(at, width - 12), height - 3);
  });
}

/* Two colours of the form #rrggbb, mixed. */
function mix(one, other, share) {
  const part = (text, at) => parseInt(text.slice(at, at + 2), 16);
  const each = [1, 3, 5].map((at) => Math.round(part(one, at) * (1 - share) + part(other, at) * share));
  return `rgb(${each.join(",")})`;
}

/* The arena as a circle, offset 0 at the top, clockwise; the lane as a thin circle within. */
export function drawRing(canvas, ring, head, tail, colourOf) {
  const [c, width] = sheet(canvas);
  const middle = width / 2, outer = middle - 16, thick = outer * 0.34, lane = outer - thick - 12;
  const [track, old, fresh, ink] = ["--track", "--old", "--new", "--ink"].map(colour);
  const arc = (radius, size, from, to, paint) => {
    c.beginPath();
    c.arc(middle, middle, radius, from - Math.PI / 2, to - Math.PI / 2);
    c.lineWidth = size;
    c.strokeStyle = paint;
    c.stroke();
  };
  const turn = 2 * Math.PI;
  arc(outer - thick / 2, thick, 0, turn, track);
  arc(lane, 7, 0, turn, track);
  let used = 0, held = 0, ends = {};
  for (const [offset, length, seq, , holders] of ring.blocks) {
    const aside = offset >= ring.capacity;
    const whole = aside ? Math.max(1, ring.lane) : ring.capacity;
    const from = ((aside ? offset - ring.capacity : offset) / whole) * turn;
    const to = from + Math.max(0.012, (length / whole) * turn);
    const radius = aside ? lane : outer - thick / 2, size = aside ? 7 : thick;
    if (!aside) used += length;
    if (holders.length) held++;
    const gap = to - from > 0.05 ? 0.008 : 0;
    if (holders.length)
      holders.forEach((pid, i) => { // each holder has its share of the thickness
        const part = size / holders.length;
        arc(radius - size / 2 + (i + 0.5) * part, part, from, to - gap, colourOf(pid));
      });
    else if (seq) {
      const age = head > tail ? (seq - tail) / (head - tail) : 1;
      arc(radius, size, from, to - gap, aside ? colour("--lane") : mix(old, fresh, Math.min(1, Math.max(0, age))));
    }
    if (!seq && !holders.length) { // being written: an outline
      arc(radius, size, from, to - gap, colour("--claim"));
      arc(radius, Math.max(1, size - 4), from + 0.01, to - gap - 0.01, track);
    }
    if (!aside && seq === head) ends.head = to;
    if (!aside && seq === tail) ends.tail = from;
  }
  c.fillStyle = ink;
  c.textAlign = "center";
  for (const [name, angle] of Object.entries(ends)) {
    const at = angle - Math.PI / 2, point = (r, a) => [middle + r * Math.cos(a), middle + r * Math.sin(a)];
    c.beginPath();
    c.moveTo(...point(outer + 1, at));
    c.lineTo(...point(outer + 9, at - 0.06));
    c.lineTo(...point(outer + 9, at + 0.06));
    c.fillStyle = name === "head" ? colour("--new") : ink;
    c.fill();
  }
  const share = Math.min(100, Math.round((100 * used) / Math.max(1, ring.capacity)));
  c.fillStyle = ink;
  c.font = "600 15px system-ui, sans-serif";
  c.fillText(`${ring.count} block${ring.count === 1 ? "" : "s"}`, middle, middle - 2);
  c.font = "12px system-ui, sans-serif";
  c.fillStyle = colour("--quiet");
  c.fillText(ring.count > ring.blocks.length ? `${ring.blocks.length} drawn` : `${share} % used`, middle, middle + 15);
  canvas.dataset.blocks = ring.count;
  canvas.dataset.held = held;
  canvas.setAttribute("aria-label", `${ring.count} blocks, ${held} of them held, ${share} % used`);
}
