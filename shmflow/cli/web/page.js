/* The page of shmflow view: asks for facts four times a second, and shows them.
 *
 * Owns:      the list, a card per topic, streams of pictures.
 * Does not:  draw (page.draw.js); ask for what is not on the screen. There is one question at a time
 *            of each kind: a slow connection is asked less often.
 *
 * Tests and tools read the numbers from data attributes: of an article data-name, -state, -head,
 * -tail, -rate, -bytes, -kind, -seq; of a row of participants data-pid, -lag, -lost, -held.
 */
import {
  HOLDERS, colour, colours, drawAges, drawPlot, drawRing, drawSpark, element, rate, size, span,
} from "./page.draw.js";

const EVERY = 250; // ms between questions for facts
const ABOUT = 500; // ms between readings of what a picture is
let every = 80; // ms between readings of what is drawn here, and single pictures: from --fps
const STREAMS = 3; // a browser has six connections to one address: other pictures are fetched singly

const $ = (selector, from = document) => from.querySelector(selector);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

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
    const depth = told.asked_depth;
    put(".capacity", size(told.capacity) + (depth ? ` · depth ${depth.toLocaleString("en")}` : ""));
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
