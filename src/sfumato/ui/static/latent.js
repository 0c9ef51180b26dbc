"use strict";
// The tab Latent space: the map of the gallery, the pictures to walk between, the frames of a walk.
{
  const fieldOf = id => byId(id)?.querySelector("input, textarea");
  const filled = (text, places) => text.replace(/\{(\w+)\}/g, (_, name) => places[name]);
  const small = (id, side = 128) => `api/v1/gallery/${id}/thumbnail?side=${side}`;
  const tell = (id, value) => write(fieldOf(id), value, 0, 0); // a component learns it

  async function ask(address) { // what the server tells, or in words why it does not
    const answer = await fetch(address);
    const told = await answer.json();
    if (!answer.ok) throw new Error(`${told.detail} (${told.code})`);
    return told;
  }

  // ---- the map ----------------------------------------------------------------------------------------------
  const SIDE = 56; // pixels of a small picture
  const DOT = 3, MANY = 1000; // its radius; points from which on it is half as large
  const REST = 150; // milliseconds
  const NEAREST = 200; // times the first view
  const LISTED = 40, KEPT = 600; // pictures of the list, and in memory
  const APART = 0.03, WIDEST = 0.1; // between pictures of one place; how far they go from it, all in all

  class Chart {
    constructor(place, say) {
      this.say = say;
      this.canvas = place.querySelector("canvas");
      this.name = place.querySelector(".sf-map-name");
      this.list = place.querySelector(".sf-map-list");
      this.count = place.querySelector(".sf-map-count");
      [this.points, this.size] = [[], [0, 0]];
      this.bounds = bounds([]);
      this.images = new Map();
      this.chosen = this.hovered = -1;
      this.stops = [];
      this.fingers = new Map();
      place.querySelector("#latent_map_keys").textContent = say.map_keys;
      this.canvas.ariaLabel = say.map;
      for (const button of place.querySelectorAll("[data-sign]")) {
        [button.title, button.ariaLabel] = [say[button.dataset.sign], say[button.dataset.sign]];
        button.addEventListener("click", () => this.sign(button.dataset.sign));
      }
      this.listen();
      this.whole();
      new ResizeObserver(() => this.measure()).observe(this.canvas);
      this.load("looks");
    }

    async load(by) {
      this.by = by;
      clearTimeout(this.timer);
      this.count.textContent = this.say.map_waits;
      let told;
      try {
        told = await ask(`ui/map?by=${by}`);
      } catch (error) {
        this.count.textContent = error.message;
        return;
      }
      if (by !== this.by) return; // another was asked for meanwhile
      const chosen = this.points[this.chosen]?.id;
      this.points = apart(told);
      this.told = told;
      this.grids = new Map();
      this.chosen = this.points.findIndex(each => each.id === chosen);
      this.hovered = -1;
      this.bounds = bounds(told.points);
      if (by !== this.drawn || this.scale === 1) this.whole(); // else whoever looks stays where they are
      this.drawn = by;
      this.draw();
      if (told.left) this.timer = setTimeout(() => this.load(by), 100);
    }

    // ---- from the plane to the screen
    measure() {
      this.size = [this.canvas.clientWidth, this.canvas.clientHeight];
      this.draw();
    }

    get unit() { // pixels
      const [width, height] = this.size, room = side => Math.max(20, side / 2 - SIDE / 2 - 8);
      const {wide, high} = this.bounds;
      return Math.min(room(width) / wide, room(height) / high) * this.scale;
    }

    at({x, y}) {
      const [width, height] = this.size;
      return [width / 2 + (x - this.x) * this.unit, height / 2 - (y - this.y) * this.unit];
    }

    whole() {
      [this.scale, this.x, this.y] = [1, this.bounds.x, this.bounds.y];
      this.draw();
    }

    zoom(by, px = this.size[0] / 2, py = this.size[1] / 2) {
      const [width, height] = this.size, before = this.unit;
      this.scale = Math.min(NEAREST, Math.max(1, this.scale * by));
      const change = 1 / before - 1 / this.unit;
      this.x += (px - width / 2) * change;
      this.y -= (py - height / 2) * change;
      this.pan(0, 0);
    }

    pan(px, py) { // no farther than the points go
      const {x, y, wide, high} = this.bounds;
      this.x = Math.min(x + wide, Math.max(x - wide, this.x - px / this.unit));
      this.y = Math.min(y + high, Math.max(y - high, this.y + py / this.unit));
      this.draw();
    }

    nearer() { // around what is next to the middle, so that it stays in view
      const next = this.points.find(each => each.id === this.list.querySelector("button")?.dataset.id);
      this.zoom(1.5, ...(next ? this.at(next) : []));
    }

    sign(name) {
      if (name === "in") this.nearer();
      else if (name === "out") this.zoom(1 / 1.5);
      else if (name === "all") this.whole();
      else this.load(this.by);
    }

    // ---- what is drawn
    draw() { // pictures and the list come when nobody moves for a moment
      this.still = false;
      clearTimeout(this.rest);
      this.rest = setTimeout(() => {
        this.still = true;
        this.redraw();
      }, REST);
      this.redraw();
    }

    redraw() {
      this.frame ??= requestAnimationFrame(() => {
        this.frame = undefined;
        if (this.size[0]) this.paint();
      });
    }

    large() { // which points have room for a picture at this scale: the first of each neighbourhood
      const key = `${this.unit.toFixed(3)}`;
      if (!this.grids.has(key)) {
        if (this.grids.size > 8) this.grids.clear();
        const taken = new Map(), chosen = [], room = (SIDE + 4) / this.unit;
        for (const [number, {x, y}] of this.points.entries()) {
          const [column, row] = [Math.floor(x / room), Math.floor(y / room)];
          let free = true;
          for (let n = 0; n < 9 && free; n++) {
            for (const other of taken.get(`${column + n % 3 - 1},${row + Math.floor(n / 3) - 1}`) ?? []) {
              if (Math.abs(other.x - x) < room && Math.abs(other.y - y) < room) free = false;
            }
          }
          if (!free) continue;
          chosen.push(number);
          const place = `${column},${row}`;
          taken.set(place, [...(taken.get(place) ?? []), {x, y}]);
        }
        this.grids.set(key, chosen);
      }
      return this.grids.get(key);
    }

    seen(point) {
      const [px, py] = this.at(point), [width, height] = this.size;
      return px > -SIDE / 2 && px < width + SIDE / 2 && py > -SIDE / 2 && py < height + SIDE / 2;
    }

    paint() {
      const [width, height] = this.size, ratio = devicePixelRatio, pen = this.canvas.getContext("2d");
      if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
        [this.canvas.width, this.canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
      }
      const style = getComputedStyle(this.canvas);
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, width, height);
      if (!this.told) return;
      const inside = this.points.filter(point => this.seen(point)), dot = inside.length > MANY ? DOT / 2 : DOT;
      pen.fillStyle = style.color;
      pen.beginPath();
      for (const point of inside) {
        const [px, py] = this.at(point);
        pen.moveTo(px + dot, py);
        pen.arc(px, py, dot, 0, 7);
      }
      pen.fill();
      this.boxes = this.large().filter(number => this.seen(this.points[number]));
      const above = [this.hovered, this.chosen].filter(number => number >= 0);
      for (const number of [...this.boxes, ...above]) this.picture(pen, number, style);
      this.stops.forEach((id, place) => this.badge(pen, id, place, style));
      if (this.still) this.beside(inside);
    }

    picture(pen, number, style) {
      const [px, py] = this.at(this.points[number]), image = this.image(this.points[number].id);
      const marked = number === this.chosen || number === this.hovered;
      const side = SIDE * (marked ? 1.4 : 1);
      const ratio = image.naturalWidth ? image.naturalWidth / image.naturalHeight : 1;
      const [w, h] = ratio > 1 ? [side, side / ratio] : [side * ratio, side];
      pen.lineWidth = marked ? 3 : 1;
      pen.strokeStyle = marked ? style.outlineColor : style.color;
      if (image.naturalWidth) pen.drawImage(image, px - w / 2, py - h / 2, w, h);
      pen.strokeRect(px - w / 2, py - h / 2, w, h);
    }

    badge(pen, id, place, style) {
      const point = this.points.find(each => each.id === id);
      if (!point) return;
      const [px, py] = this.at(point);
      pen.fillStyle = style.outlineColor;
      pen.beginPath();
      pen.arc(px + SIDE / 2, py - SIDE / 2, 10, 0, 7);
      pen.fill();
      pen.fillStyle = "white";
      pen.font = "bold 13px system-ui";
      [pen.textAlign, pen.textBaseline] = ["center", "middle"];
      pen.fillText(String(place + 1), px + SIDE / 2, py - SIDE / 2 + 1);
    }

    image(id) {
      let image = this.images.get(id);
      if (!image) {
        image = new Image();
        if (!this.still) return image; // as yet only the place for it
        image.addEventListener("load", () => this.redraw());
        image.src = small(id);
      }
      this.images.delete(id); // now the last of them
      this.images.set(id, image);
      if (this.images.size > KEPT) this.images.delete(this.images.keys().next().value);
      return image;
    }

    beside(inside) { // the same as a list: what is in view, from the middle outwards
      const far = point => (point.x - this.x) ** 2 + (point.y - this.y) ** 2;
      const listed = inside.toSorted((a, b) => far(a) - far(b)).slice(0, LISTED);
      const {total, left, shares} = this.told;
      const places = {seen: inside.length, total, left, across: percent(shares[0]), up: percent(shares[1])};
      const text = total === 0 ? "map_empty" : left ? "map_reads" : "map_seen";
      this.say_once(filled(this.say[text], places));
      const key = listed.map(each => each.id).join();
      if (key === this.listed) return;
      this.listed = key;
      const focused = this.list.contains(document.activeElement) && document.activeElement.dataset.id;
      this.list.replaceChildren(...listed.map(point => {
        const item = document.createElement("li"), button = document.createElement("button");
        [button.type, button.dataset.id] = ["button", point.id];
        const image = button.appendChild(new Image(40, 40));
        [image.loading, image.alt, image.src] = ["lazy", "", small(point.id)];
        button.append(point.label || this.say.no_prompt);
        button.addEventListener("click", () => this.choose(point.number));
        for (const name of ["focus", "pointerenter"]) button.addEventListener(name, () => this.hover(point.number));
        for (const name of ["blur", "pointerleave"]) button.addEventListener(name, () => this.hover(-1));
        item.append(button);
        return item;
      }));
      if (focused) this.list.querySelector(`[data-id="${focused}"]`)?.focus();
    }

    say_once(text) {
      if (this.count.textContent !== text) this.count.textContent = text;
    }

    // ---- what is pointed at
    under(px, py) {
      const near = (number, far) => {
        const [x, y] = this.at(this.points[number]);
        return Math.abs(px - x) <= far && Math.abs(py - y) <= far;
      };
      const box = [...(this.boxes ?? [])].reverse().find(number => near(number, SIDE / 2));
      if (box !== undefined) return box;
      return this.points.findIndex((_, number) => near(number, DOT + 4));
    }

    hover(number, px, py) {
      const point = this.points[number];
      this.name.hidden = !point || px === undefined;
      if (!this.name.hidden) {
        this.name.textContent = point.label || this.say.no_prompt;
        this.name.style.translate = `${Math.min(px + 12, this.size[0] - 260)}px ${py + 16}px`;
      }
      if (number === this.hovered) return;
      this.hovered = number;
      this.canvas.style.cursor = number >= 0 ? "pointer" : "";
      this.redraw();
    }

    choose(number) {
      if (number < 0) return;
      this.chosen = number;
      const {id, label} = this.points[number], figure = byId("latent_opened");
      const image = figure.querySelector("img");
      [image.src, image.alt] = [`api/v1/gallery/${id}/file`, label];
      tell("latent_chosen", id);
      document.querySelector("#latent_opened_place").classList.add("sf-there");
      this.redraw();
    }

    listen() {
      const canvas = this.canvas;
      const here = event => {
        const box = canvas.getBoundingClientRect();
        return [event.clientX - box.left, event.clientY - box.top];
      };
      canvas.addEventListener("wheel", event => {
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 20 : 1) / 500), ...here(event));
      }, {passive: false});
      canvas.addEventListener("pointerdown", event => {
        canvas.setPointerCapture(event.pointerId);
        this.fingers.set(event.pointerId, here(event));
        this.moved = this.fingers.size > 1 ? Infinity : 0;
      });
      canvas.addEventListener("pointermove", event => this.drag(event, here(event)));
      canvas.addEventListener("pointerup", event => {
        this.fingers.delete(event.pointerId);
        if (this.moved < 5) this.choose(this.under(...here(event)));
      });
      canvas.addEventListener("pointercancel", event => this.fingers.delete(event.pointerId));
      canvas.addEventListener("pointerleave", () => this.hover(-1));
      canvas.addEventListener("keydown", event => this.key(event));
    }

    drag(event, [px, py]) {
      const before = this.fingers.get(event.pointerId);
      if (!before) return this.hover(this.under(px, py), px, py);
      this.moved += Math.hypot(px - before[0], py - before[1]);
      const other = [...this.fingers].find(([pointer]) => pointer !== event.pointerId)?.[1];
      this.fingers.set(event.pointerId, [px, py]);
      const share = other ? 0.5 : 1; // of two fingers, the middle moves half
      this.pan((px - before[0]) * share, (py - before[1]) * share);
      if (!other) return;
      const away = ([x, y]) => Math.max(1, Math.hypot(x - other[0], y - other[1]));
      this.zoom(away([px, py]) / away(before), (px + other[0]) / 2, (py + other[1]) / 2);
    }

    key(event) {
      const keys = {
        "+": () => this.nearer(), "=": () => this.nearer(), "-": () => this.zoom(1 / 1.5), "0": () => this.whole(),
        ArrowLeft: () => this.pan(60, 0), ArrowRight: () => this.pan(-60, 0),
        ArrowUp: () => this.pan(0, 60), ArrowDown: () => this.pan(0, -60),
        Enter: () => this.list.querySelector("button")?.click(), // what is in the middle
      };
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    }
  }

  function bounds(points) { // the middle, and how far the points go from it
    const range = axis => {
      const all = points.map(each => each[axis]);
      const [low, high] = [all.reduce((a, b) => Math.min(a, b), 0), all.reduce((a, b) => Math.max(a, b), 0)];
      return [(low + high) / 2, Math.max((high - low) / 2, 0.05)];
    };
    const [[x, wide], [y, high]] = [range(0), range(1)];
    return {x, y, wide, high};
  }

  const percent = share => `${Math.round(100 * share)} %`;

  function apart({ids, labels, points}) { // those of one place lie around it like the seeds of a sunflower
    const piles = new Map();
    for (const point of points) piles.set(point.join(), (piles.get(point.join()) ?? 0) + 1);
    const there = new Map();
    return ids.map((id, number) => {
      const [x, y] = points[number], place = points[number].join();
      const count = there.get(place) ?? 0, pile = piles.get(place);
      there.set(place, count + 1);
      const away = Math.min(APART, WIDEST / Math.sqrt(pile)) * Math.sqrt(count), turn = 2.39996 * count;
      return {id, number, label: labels[number], x: x + away * Math.cos(turn), y: y + away * Math.sin(turn)};
    });
  }

  // ---- the pictures to walk between -------------------------------------------------------------------------
  function showStops(list, ids, say) {
    list.replaceChildren(...ids.map((id, place) => {
      const item = document.createElement("li"), button = document.createElement("button");
      const image = item.appendChild(new Image(96, 96));
      [image.src, image.alt] = [small(id), filled(say.stop, {place: place + 1})];
      [button.type, button.textContent] = ["button", "✕"];
      button.title = button.ariaLabel = filled(say.remove_stop, {place: place + 1});
      button.addEventListener("click", () => tell("latent_stops", ids.filter((_, n) => n !== place).join(" ")));
      item.append(button);
      return item;
    }));
  }

  // ---- a walk -----------------------------------------------------------------------------------------------
  class Walk {
    constructor(place, say) {
      [this.place, this.say, this.playing] = [place, say, 0];
      [this.image, this.slider, this.play] = ["frame", "slider", "play"].map(name =>
        place.querySelector(`.sf-walk-${name}`));
      this.slider.ariaLabel = say.frame_slider;
      this.slider.addEventListener("input", () => this.show());
      this.play.addEventListener("click", () => this.turn(!this.playing));
      this.turn(false);
      this.load("");
    }

    async load(signature) {
      if (signature === this.signature) return;
      this.signature = signature;
      const told = await ask("ui/walk");
      if (signature !== this.signature) return;
      const same = this.told?.job === told.job;
      this.told = told;
      this.frames = told.frames.length ? told.frames : told.moving ? [told.moving] : [];
      this.place.hidden = !this.frames.length;
      if (this.place.hidden) return;
      this.slider.max = this.frames.length - 1;
      if (!same) this.slider.value = 0;
      this.slider.parentElement.hidden = this.frames.length < 2;
      for (const name of ["moving", "sheet"]) {
        const link = this.place.querySelector(`.sf-walk-${name}`);
        [link.hidden, link.textContent] = [!told[name], this.say[name]];
        if (told[name]) link.href = told[name];
      }
      for (const url of this.frames) new Image().src = url; // so that the slider finds them
      this.show();
    }

    show() {
      const at = Number(this.slider.value), {leg, stops} = this.told;
      if (!this.image.src.endsWith(`/${this.frames[at]}`)) this.image.src = this.frames[at];
      const start = Math.min(Math.floor(at / leg), stops.length - 2);
      const share = percent((at - start * leg) / leg);
      const text = filled(this.say.frame, {
        number: at + 1, count: this.frames.length, share, from: stops[start], to: stops[start + 1],
      });
      this.image.alt = this.slider.ariaValueText = text;
      this.place.querySelector(".sf-walk-place").textContent = text;
    }

    turn(on) {
      clearInterval(this.playing);
      this.playing = on ? setInterval(() => {
        this.slider.value = (Number(this.slider.value) + 1) % this.frames.length;
        this.show();
      }, 125) : 0;
      const word = on ? this.say.pause : this.say.play;
      [this.play.textContent, this.play.title, this.play.ariaLabel] = [on ? "❚❚" : "▶", word, word];
    }
  }

  // ---- they begin when Gradio has made their places -----------------------------------------------------------
  const begun = new WeakMap();
  let map, walk, stops = [];
  words.then(say => {
    const begin = () => {
      const [plane, frames, list] = ["map", "walk", "stops_shown"].map(name => byId(`latent_${name}`));
      if (plane && !begun.has(plane)) begun.set(plane, map = new Chart(plane, say));
      if (frames && !begun.has(frames)) begun.set(frames, walk = new Walk(frames, say));
      if (list && begun.get(list) !== stops) {
        begun.set(list, stops);
        showStops(list, stops, say);
      }
    };
    begin();
    new MutationObserver(begin).observe(document.body, {childList: true, subtree: true});
    document.addEventListener("sf-map", event => map?.load(event.detail));
    document.addEventListener("sf-stops", event => {
      stops = event.detail.split(" ").filter(Boolean);
      begin();
      if (map) map.stops = stops;
      map?.draw();
    });
    document.addEventListener("sf-now", event => {
      if (event.detail.tab === "latent") walk?.load(event.detail.told.signature);
    });
  });
}
