// The sample viewer: orders the requests by their scores and shows one at a time.
//
// Its data lie in a script of their own (<suite>/viewer.js), because a page opened from a folder may load scripts but
// may not fetch files. They are asked for when the viewer comes near the window, scores are decoded when they are
// first needed, and images come as sheets of 64 tiles: a page with 10,000 samples opens as fast as one with ten.
"use strict";

// Little-endian float32 from base64; a request without a value is NaN.
function decodeScores(text) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

// The requests in the order in which they are stepped through. values, others: scores of the two chosen rows.
function orderSamples(mode, values, others, higherIsBetter) {
  const all = Array.from(values, (_, index) => index);
  if (mode === "order") return all;
  const known = all.filter(index => !Number.isNaN(values[index]));
  let key;
  if (mode === "median") {
    const sorted = known.map(index => values[index]).sort((a, b) => a - b);
    const middle = sorted[Math.floor((sorted.length - 1) / 2)];
    key = index => Math.abs(values[index] - middle);
  } else if (mode === "disagreement") {
    key = index => -Math.abs(values[index] - others[index]);
  } else {
    const sign = (mode === "best") === higherIsBetter ? -1 : 1;
    key = index => sign * values[index];
  }
  const kept = known.filter(index => !Number.isNaN(key(index)));
  return kept.sort((a, b) => key(a) - key(b) || a - b);  // equal scores keep the order of the requests
}

class Viewer {
  constructor(root) {
    this.root = root;
    this.data = null;
    this.scores = new Map();  // decoded once
    this.sheets = new Map();  // image sheets: path -> Promise of an image
    this.position = 0;
    this.order = [];
    this.part = name => root.querySelector(`[data-part="${name}"]`);
    for (const name of ["metric", "mode", "first", "second"]) {
      this.part(name).addEventListener("change", () => this.reorder());
    }
    for (const box of root.querySelectorAll("[data-column]")) box.addEventListener("change", () => this.show());
    for (const button of root.querySelectorAll("[data-step]")) {
      button.addEventListener("click", () => this.step(button.dataset.step));
    }
    document.addEventListener("keydown", event => this.key(event));
    this.near = false;
    new IntersectionObserver(entries => {
      this.near = entries.at(-1).isIntersecting;
      if (this.near) this.load();
    }, { rootMargin: "300px" }).observe(root);
    if (location.hash.startsWith("#sample=")) {  // a link to one sample: no element has that id
      this.load();
      root.scrollIntoView();
    }
  }

  load() {
    if (this.asked) return;
    this.asked = true;
    const script = document.createElement("script");
    script.src = this.root.dataset.source;
    script.onerror = () => { this.part("where").textContent = `${this.root.dataset.source} is missing from this folder.`; };
    document.head.append(script);
  }

  receive(data) {
    this.data = data;
    const asked = decodeURIComponent(location.hash).match(/^#sample=(.+)$/);
    this.reorder();
    if (asked) {  // a link to one sample
      const index = this.order.indexOf(data.ids.indexOf(asked[1]));
      if (index >= 0) { this.position = index; this.show(); }
    }
  }

  values(row, metric) {
    const name = `${row} ${metric}`;
    if (!this.scores.has(name)) {
      const text = (this.data.scores[row] || {})[metric];
      this.scores.set(name, text ? decodeScores(text) : new Float32Array(this.data.ids.length).fill(NaN));
    }
    return this.scores.get(name);
  }

  reorder() {
    if (!this.data) return;
    const [metric, mode] = [this.part("metric").value, this.part("mode").value];
    const [first, second] = [this.part("first").value, this.part("second").value];
    this.part("second").disabled = mode !== "disagreement";
    const facts = this.data.metrics.find(one => one.name === metric);
    this.order = orderSamples(mode, this.values(first, metric), this.values(second, metric), facts.higher);
    this.position = 0;
    this.show();
  }

  step(where) {
    if (!this.order.length) return;
    const last = this.order.length - 1;
    const target = { first: 0, previous: this.position - 1, next: this.position + 1, last };
    this.position = Math.max(0, Math.min(last, target[where]));
    const request = this.data.ids[this.order[this.position]];
    history.replaceState(null, "", `#sample=${encodeURIComponent(request)}`);
    this.show();
  }

  key(event) {
    // Arrow keys belong to menus, and to boxes that scroll; elsewhere they step while the viewer can be seen.
    const busy = event.target.closest("select, input, textarea, .scroll, nav");
    const step = { ArrowLeft: "previous", ArrowRight: "next", Home: "first", End: "last" }[event.key];
    const inside = this.root.contains(event.target);
    if (!step || busy || !this.near || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (!inside && (event.key === "Home" || event.key === "End")) return;  // these move the page
    event.preventDefault();
    this.step(step);
  }

  show() {
    if (!this.data) return;
    const data = this.data, metric = this.part("metric").value;
    for (const button of this.root.querySelectorAll("[data-step]")) {
      const back = button.dataset.step === "first" || button.dataset.step === "previous";
      button.disabled = back ? this.position === 0 : this.position >= this.order.length - 1;
    }
    if (!this.order.length) {
      this.part("where").textContent = "No request has a value of this metric.";
      this.part("tiles").replaceChildren();
      this.part("given").replaceChildren();
      return;
    }
    const index = this.order[this.position], request = data.ids[index];
    const facts = data.metrics.find(one => one.name === metric);
    const said = row => `${data.titles[row]} ${this.format(this.values(row, metric)[index], facts)}`;
    const rows = [this.part("first").value];
    if (this.part("mode").value === "disagreement") rows.push(this.part("second").value);
    this.part("where").textContent =
      `${this.position + 1} of ${this.order.length}: request ${request}, ${facts.label}: ${rows.map(said).join(", ")}`;
    this.part("caption").textContent = data.texts ? data.texts[index] : "";
    this.part("given").replaceChildren(...data.given.map(column => this.tile(column, index, request)));
    const hidden = new Set([...this.root.querySelectorAll("[data-column]:not(:checked)")].map(box => box.dataset.column));
    const shown = data.columns.filter(column => !hidden.has(column.name));
    this.part("tiles").replaceChildren(...shown.map(column => this.tile(column, index, request, metric)));
    if (this.position + 1 < this.order.length) {  // the next image is there before it is asked for
      for (const column of [...data.given, ...shown]) this.sheet(column, this.order[this.position + 1]);
    }
  }

  format(value, facts) {
    return Number.isNaN(value) ? "–" : value.toFixed(facts.decimals);
  }

  tile(column, index, request, metric) {
    const figure = document.createElement("figure"), canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption");
    caption.textContent = column.title;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${column.title}, request ${request}`);
    figure.append(canvas, caption);
    this.draw(canvas, column, index);
    if (metric !== undefined) figure.append(this.numbers(column, index, metric));
    return figure;
  }

  numbers(column, index, metric) {
    const list = document.createElement("dl");
    for (const facts of this.data.metrics) {
      const value = this.values(column.name, facts.name)[index];
      const failed = ((this.data.failed[column.name] || {})[facts.name] || []).includes(index);
      const name = document.createElement("dt"), number = document.createElement("dd");
      name.textContent = `${facts.label} ${facts.higher ? "↑" : "↓"}`;
      number.textContent = this.format(value, facts) + (failed ? " (failed)" : "");
      if (facts.name === metric) for (const part of [name, number]) part.className = "chosen";
      list.append(name, number);
    }
    return list;
  }

  sheet(column, index) {
    if (!column.tiles) return null;
    const path = column.tiles.files[Math.floor(index / this.data.sheet)];
    if (!path) return null;
    if (!this.sheets.has(path)) {
      const image = new Image();
      this.sheets.set(path, new Promise(resolve => {
        image.onload = () => resolve(image);
        image.onerror = () => resolve(null);
      }));
      image.src = path;
    }
    return this.sheets.get(path);
  }

  async draw(canvas, column, index) {
    const size = column.tiles ? column.tiles.size : 64;
    // Enlarged here by a whole factor: a tile cut out by the browser's scaling would show its neighbours at the edge.
    const factor = Math.max(1, Math.round(256 / size));
    canvas.width = canvas.height = size * factor;
    const image = await this.sheet(column, index);
    const pen = canvas.getContext("2d");
    if (!image) {
      pen.font = "24px sans-serif";
      pen.textAlign = "center";
      pen.fillStyle = getComputedStyle(canvas).color;
      pen.fillText("no image", canvas.width / 2, canvas.height / 2);
      return;
    }
    const place = index % this.data.sheet, side = Math.round(Math.sqrt(this.data.sheet));
    pen.imageSmoothingEnabled = !column.tiles.exact;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(image, (place % side) * size, Math.floor(place / side) * size, size, size,
      0, 0, canvas.width, canvas.height);
  }
}

if (typeof document !== "undefined") {
  const root = document.getElementById("viewer");
  if (root) window.concordViewer = new Viewer(root);
}
if (typeof module !== "undefined") module.exports = { decodeScores, orderSamples };  // for tests outside a browser
