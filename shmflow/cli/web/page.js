/* The page of shmflow view: asks for facts four times a second, and draws them.
 *
 * Owns:      the list, a card per topic, streams of pictures.
 * Does not:  ask for what is not on the screen. One question at a time of each kind: a slow
 *            connection is asked less often.
 *
 * Tests and tools read the numbers from data attributes: of an article data-name, -state, -head,
 * -tail, -rate, -bytes, -kind, -seq; of a row of participants data-pid, -lag, -lost, -held.
 */
"use strict";

const EVERY = 250; // ms between questions for facts
const ABOUT = 500; // ms between readings of what a picture is
let every = 80; // ms between readings of what is drawn here, and single pictures: from --fps
const STREAMS = 3; // a browser has six connections to one address: other pictures are fetched singly
const HOLDERS = 8; // colours in page.css

const $ = (selector, from = document) => from.querySelector(selector);
const colours = new Map(); // of page.css
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// ---- numbers, as the command line spells them ----

function size(bytes) {
  let unit = 0;
  while (bytes >= 1024 && unit < 4) {
    bytes /= 1024;
    unit++;
  }
  return `${bytes.toFixed(unit && bytes < 100 ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

function rate(hz) {
  if (hz >= 1e6) return `${(hz / 1e6).toFixed(2)} M`;
  return hz >= 1000 || hz === 0 ? Math.round(hz).toLocaleString("en") : hz.toFixed(hz >= 10 ? 1 : 2);
}

function span(seconds) {
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

function colour(name) {
  if (!colours.has(name))
    colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return colours.get(name);
}

function element(tag, text = "", name = "") {
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

function drawSpark(canvas, values) {
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

function drawPlot(canvas, told) {
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

function drawAges(canvas, { edges, counts }) {
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
function drawRing(canvas, ring, head, tail, colourOf) {
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

// ---- a topic ----

class Card {
  constructor(name) {
    this.name = name;
    this.url = `t/${name}/`;
    this.node = $("#card").content.firstElementChild.cloneNode(true);
    this.node.id = `topic-${name}`;
    this.node.dataset.name = name;
    this.node.card = this;
    $("h2", this.node).textContent = name;
    this.form = $(".controls", this.node);
    this.picture = $(".picture", this.node);
    this.index = [];
    this.leading = "[]";
    this.colours = new Map();
    this.visible = this.gone = this.streaming = false;
    this.version = "";
    this.form.addEventListener("input", () => this.chosen());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.picture.addEventListener("error", () => this.again());
    this.picture.addEventListener("load", () => {
      this.picture.classList.toggle("small", this.picture.naturalWidth < 320);
    });
    this.chosen();
    this.read();
  }

  // What is wanted of it, as a query.
  get query() {
    const asked = new URLSearchParams(new FormData(this.form));
    for (const key of [...asked.keys()]) if (key.startsWith("axis")) asked.delete(key);
    if (this.index.length) asked.set("index", this.index.join(","));
    return asked;
  }

  chosen() {
    this.index = [...this.form.querySelectorAll(".slices input")].map((input) => {
      input.nextElementSibling.textContent = `${input.value} of ${+input.max + 1}`;
      return input.value;
    });
    this.version = "";
    for (const end of ["png", "npy"]) $(`.${end}`, this.node).href = `${this.url}frame.${end}?${this.query}`;
    this.stop();
    arrange();
  }

  // ---- messages ----

  async read() {
    while (!this.gone) {
      if (this.visible && !document.hidden) {
        try {
          const asked = this.query;
          asked.set("after", this.version);
          const answer = await fetch(`${this.url}reading?${asked}`);
          if (answer.status === 200) this.show(await answer.json());
        } catch { /* the connection is told of by facts */ }
      }
      await sleep(this.node.dataset.kind === "image" ? ABOUT : every);
    }
  }

  show(told) {
    const { node } = this, kind = told.kind;
    this.version = told.version;
    node.dataset.kind = kind;
    node.dataset.seq = told.seq ?? 0;
    $(".picture", node).hidden = kind !== "image";
    $(".plot", node).hidden = kind !== "plot";
    $(".data", node).hidden = !["bytes", "table", "text"].includes(kind);
    $(".empty", node).hidden = kind !== "none";
    const shape = told.shape ?? [], channels = shape.length > 2 ? shape[shape.length - 1] : 1;
    $(".for-order", node).hidden = kind !== "image" || channels < 3 || channels > 4;
    $(".for-bayer", node).hidden = kind !== "image" || (channels > 1 && channels < 5);
    $(".for-range", node).hidden = kind !== "image";
    $(".png", node).hidden = kind !== "image";
    $(".npy", node).hidden = kind === "none";
    $(".what", node).textContent = kind === "none" ? ""
      : `${told.dtype} (${shape.join(" × ") || "one value"}), ${size(told.bytes)}`;
    $(".meta", node).textContent = Object.entries(told.meta ?? {}).map(([k, v]) => `${k}: ${v}`).join(" · ");
    this.slices(told.leading ?? []);
    if (kind === "plot") drawPlot($(".plot", node), told.reading);
    if (kind === "bytes") this.showBytes(told.reading);
    if (kind === "table") this.showTable(told.reading);
    if (kind === "text") $(".data", node).replaceChildren(element("pre", told.reading.text, "text"));
    arrange();
  }

  showBytes({ hex, text, left_out }) {
    const parts = [element("pre", hex.join("\n"), "hex"), element("pre", text, "text")];
    if (left_out) parts.push(element("p", `and ${size(left_out)} more`, "meta"));
    $(".data", this.node).replaceChildren(...parts);
  }

  showTable({ fields, left_out }) {
    const table = element("table"), body = table.createTBody();
    for (const field of fields) {
      const row = body.insertRow();
      row.append(element("th", field.name), element("td", field.dtype));
      for (const value of field.values) row.append(element("td", value));
    }
    const parts = left_out ? [table, element("p", `and ${left_out} more records`, "meta")] : [table];
    $(".data", this.node).replaceChildren(...parts);
  }

  slices(leading) {
    if (JSON.stringify(leading) === this.leading) return;
    this.leading = JSON.stringify(leading);
    $(".slices", this.node).replaceChildren(...leading.map((count, axis) => {
      const label = element("label", `axis ${axis} `), input = element("input");
      Object.assign(input, { type: "range", min: 0, max: count - 1, value: this.index[axis] ?? 0, name: `axis${axis}` });
      label.append(input, element("output", `${input.value} of ${count}`));
      return label;
    }));
  }

  // ---- pictures ----

  get wantsPictures() {
    return this.visible && !this.gone && !document.hidden && this.node.dataset.kind === "image";
  }

  stream() {
    if (this.streaming === "stream") return;
    this.stop();
    this.streaming = "stream";
    this.picture.src = `${this.url}stream.mjpg?${this.query}&n=${Date.now()}`;
  }

  async singly() {
    if (this.streaming) return;
    const mine = (this.streaming = {});
    let after = "";
    while (this.streaming === mine) {
      try {
        const answer = await fetch(`${this.url}picture.jpg?${this.query}&after=${after}`);
        if (this.streaming === mine && answer.status === 200) {
          after = answer.headers.get("x-version");
          const before = this.picture.src;
          this.picture.src = URL.createObjectURL(await answer.blob());
          if (before.startsWith("blob:")) URL.revokeObjectURL(before);
        }
      } catch { /* as above */ }
      await sleep(every);
    }
  }

  stop() {
    if (this.streaming === "stream") this.picture.removeAttribute("src"); // closes its connection
    this.streaming = false;
  }

  again() {
    if (this.streaming !== "stream") return;
    this.streaming = false;
    setTimeout(arrange, 1000);
  }

  // ---- facts ----

  colourOf(pid) {
    if (!this.colours.has(pid)) this.colours.set(pid, this.colours.size % HOLDERS);
    return colour(`--c${this.colours.get(pid)}`);
  }

  brief(told) {
    const { node } = this;
    node.dataset.state = told.state;
    node.dataset.rate = told.hz.toFixed(3);
    node.dataset.bytes = Math.round(told.bytes_per_s);
    node.dataset.head = told.head;
    $(".state", node).textContent = told.state;
    $(".error", node).hidden = !told.error;
    $(".error", node).textContent = told.error;
  }

  full(told) {
    const { node } = this, put = (name, text) => { $(name, node).textContent = text; };
    this.brief(told);
    node.dataset.tail = told.tail;
    put(".rate", `${rate(told.hz)} msg/s`);
    put(".bytes", `${size(told.bytes_per_s)}/s`);
    put(".head", told.head.toLocaleString("en"));
    put(".tail", told.retained ? `${told.tail.toLocaleString("en")} (${told.retained} there)` : "–");
    put(".capacity", `${size(told.capacity)} · depth ${told.depth.toLocaleString("en")}`);
    put(".age", told.age_of_last === null ? "–" : `${span(told.age_of_last)} ago`);
    for (const p of told.participants) if (p.mode.includes("r")) this.colourOf(p.pid);
    drawSpark($(".spark.hz", node), told.history_hz);
    drawSpark($(".spark.bps", node), told.history_bytes);
    drawAges($(".ages", node), told.ages);
    put(".ages-text", told.ages.median === null ? "nothing came yet"
      : `median ${span(told.ages.median)}, 99 % within ${span(told.ages.p99)}`);
    $(".blame", node).replaceChildren(...told.blame.map((text) => element("li", text)));
    if (told.ring) drawRing($(".ring", node), told.ring, told.head, told.tail, (pid) => this.colourOf(pid));
    this.legend(told);
    this.participants(told.participants);
  }

  legend({ ring, participants, head }) {
    const key = (paint, text) => {
      const part = element("span"), mark = element("i");
      mark.style.background = paint;
      part.append(mark, text);
      return part;
    };
    const parts = head ? [key(`linear-gradient(90deg, ${colour("--old")}, ${colour("--new")})`, "old to new")] : [];
    if (ring) {
      const claims = ring.blocks.filter((b) => !b[2] && !b[4].length);
      for (const pid of new Set(claims.map((b) => b[3]))) parts.push(key(colour("--claim"), `written by ${pid}`));
      if (ring.blocks.some((b) => b[0] >= ring.capacity)) parts.push(key(colour("--lane"), "in the lane"));
      const holders = new Set(ring.blocks.flatMap((b) => b[4]));
      for (const pid of holders) {
        const who = participants.find((p) => p.pid === pid), n = ring.blocks.filter((b) => b[4].includes(pid)).length;
        parts.push(key(this.colourOf(pid), `held by ${pid} ${who ? who.command : ""}: ${n}`));
      }
    }
    $(".legend", this.node).replaceChildren(...parts);
  }

  participants(all) {
    $(".participants", this.node).replaceChildren(...all.map((p) => {
      const row = element("tr", "", p.alive ? "" : "dead"), reads = p.mode.includes("r");
      Object.assign(row.dataset, { pid: p.pid, lag: p.lag, lost: p.lost, held: p.held_blocks });
      const who = element("td"), mark = element("i");
      mark.style.background = p.held_blocks ? this.colourOf(p.pid) : "transparent";
      who.append(mark, `${p.pid} ${p.command}${p.alive ? "" : " (dead)"}`);
      const mode = p.mode + (p.lossless ? " lossless" : "") + (p.group ? ` group ${p.group}` : "");
      row.append(who, ...[
        mode, rate(p.hz), reads ? p.lag : "", reads ? p.lost : "",
        p.held_blocks ? `${p.held_blocks} · ${size(p.held_bytes)}` : "", p.writer_waits || "",
      ].map((text) => element("td", String(text))));
      return row;
    }));
  }

  close() {
    this.gone = true;
    this.stop();
    eyes.unobserve(this.node);
    this.node.remove();
  }
}

// ---- all of them ----

const cards = new Map();
const eyes = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) target.card.visible = isIntersecting;
  arrange();
}, { rootMargin: "100px" });

/* The first pictures on the screen are streams, the others are fetched one by one. */
function arrange() {
  let streams = 0;
  for (const card of cards.values()) {
    if (!card.wantsPictures) card.stop();
    else if (streams++ < STREAMS) card.stream();
    else {
      if (card.streaming === "stream") card.stop();
      card.singly();
    }
  }
}

function list(topics) {
  const names = new Set(topics.map((told) => told.name)), entries = $("#topics");
  for (const [name, card] of cards) {
    if (names.has(name)) continue;
    card.close();
    card.entry.remove();
    cards.delete(name);
  }
  topics.forEach((told) => {
    let card = cards.get(told.name);
    if (!card) {
      card = new Card(told.name);
      card.entry = $("#entry").content.firstElementChild.cloneNode(true);
      $("a", card.entry).href = `#topic-${told.name}`;
      $(".name", card.entry).textContent = told.name;
      cards.set(told.name, card);
      const next = [...cards.values()].find((other) => other.name > told.name);
      $("#cards").insertBefore(card.node, next ? next.node : null);
      entries.insertBefore(card.entry, next ? next.entry : null);
      eyes.observe(card.node);
    }
    card.entry.dataset.state = told.state;
    $(".hz", card.entry).textContent = told.state === "live" ? `${rate(told.hz)}/s` : told.state;
    card.brief(told);
  });
  $("#nothing").hidden = topics.length > 0;
}

async function run() {
  const status = $("#connection");
  for (;;) {
    if (!document.hidden) {
      try {
        const asked = new URLSearchParams();
        for (const card of cards.values()) if (card.visible) asked.append("t", card.name);
        const answer = await fetch(`api/facts?${asked}`);
        if (!answer.ok) throw new Error(await answer.text());
        const told = await answer.json();
        $("#folder").textContent = told.folder;
        every = Math.max(40, 1000 / told.fps);
        list(told.topics);
        for (const [name, facts] of Object.entries(told.details)) cards.get(name)?.full(facts);
        status.textContent = "live";
        status.dataset.state = "live";
      } catch (error) {
        status.textContent = "shmflow view has ended, or cannot be reached";
        status.dataset.state = "lost";
        await sleep(1000);
      }
    }
    await sleep(EVERY);
  }
}

document.addEventListener("visibilitychange", arrange);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => colours.clear());
run();
