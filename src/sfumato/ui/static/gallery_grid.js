"use strict";
// A list of pictures as a grid, of which only the cells that are seen are there. What comes from outside
// becomes text and never markup.
{
  const PAGE = 60; // pictures of a page of the list
  const LEAST = 150, GAP = 8; // pixels: the narrowest cell, and between two
  const REST = 100; // milliseconds between two looks at whether scrolling is calm enough to load pictures

  function make(tag, given = {}, ...inside) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(given)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...inside);
    return made;
  }

  // on: {open(place), changed(), remove(), rate(stars), fail(error)}
  class Grid {
    constructor(said, on) {
      [this.said, this.on] = [said, on];
      this.source = {total: 0, page: async () => []};
      [this.rows, this.asked, this.cells, this.chosen] = [new Map(), new Map(), new Map(), new Map()];
      [this.active, this.anchor, this.columns, this.step] = [0, 0, 1, 1];
      this.floor = make("div", {class: "sf-g-floor", role: "presentation"});
      this.box = make("div", {
        class: "sf-g-box", role: "listbox", tabindex: 0, "aria-multiselectable": "true", "aria-label": said("grid"),
        onscroll: () => this.scrolled(), onkeydown: event => this.key(event), onclick: event => this.click(event),
        onfocus: () => this.mark(),
      }, this.floor);
      new ResizeObserver(() => { this.lay(); this.settle(); }).observe(this.box);
    }

    // Show a list. `kept`: it is the same one, looked at again; nothing flickers where nothing is new.
    async show(source, kept) {
      this.wanted = source;
      const first = kept && this.cells.size ? Math.min(...this.cells.keys()) : 0;
      const last = kept && this.cells.size ? Math.max(...this.cells.keys()) : PAGE - 1;
      const pages = new Map();
      for (let page = Math.floor(first / PAGE); page <= Math.floor(last / PAGE); page++)
        if (page * PAGE < source.total) pages.set(page, source.page(page));
      await Promise.all(pages.values());
      if (this.wanted !== source) return;
      [this.source, this.asked, this.rows] = [source, pages, new Map()];
      for (const [page, rows] of pages) this.take(page, await rows);
      if (!kept) [this.box.scrollTop, this.active, this.anchor] = [0, 0, 0];
      this.active = Math.max(0, Math.min(this.active, source.total - 1));
      this.lay();
      this.settle();
    }

    take(page, rows) {
      rows.forEach((row, place) => this.rows.set(page * PAGE + place, row));
    }

    // The row of a place, asked for where it is not here; undefined = there is none.
    async row(place) {
      const page = Math.floor(place / PAGE), {source} = this;
      if (place < 0 || place >= source.total) return undefined;
      if (!this.asked.has(page)) {
        this.asked.set(page, source.page(page));
        try {
          const rows = await this.asked.get(page);
          if (source === this.source) this.take(page, rows);
        } catch (error) {
          if (source === this.source) this.asked.delete(page);
          throw error;
        }
      }
      await this.asked.get(page);
      return this.rows.get(place);
    }

    scrolled() {
      this.lay();
      if (this.timer) return;
      const from = this.box.scrollTop;
      this.timer = setTimeout(() => {
        this.timer = 0;
        if (Math.abs(this.box.scrollTop - from) > this.box.clientHeight) this.scrolled(); // it flies past
        else this.settle();
      }, REST);
    }

    // Cells where something is seen, and none elsewhere.
    lay() {
      const {clientWidth: width, clientHeight: height, scrollTop: top} = this.box;
      if (!width || !height) return;
      const {total} = this.source;
      this.columns = Math.max(2, Math.floor((width + GAP) / (LEAST + GAP)));
      const side = (width - GAP * (this.columns - 1)) / this.columns;
      this.step = side + GAP;
      this.floor.style.height = `${Math.max(0, Math.ceil(total / this.columns) * this.step - GAP)}px`;
      const first = Math.max(0, Math.floor((top + GAP) / this.step)) * this.columns;
      const end = Math.min(total, Math.ceil((top + height) / this.step) * this.columns);
      for (const [place, cell] of this.cells) if (place < first || place >= end) this.drop(place, cell);
      for (let place = first; place < end; place++) {
        let cell = this.cells.get(place);
        if (!cell) this.cells.set(place, cell = this.floor.appendChild(this.cell(place)));
        cell.style.width = cell.style.height = `${side}px`;
        const [row, column] = [Math.floor(place / this.columns), place % this.columns];
        cell.style.transform = `translate(${column * this.step}px, ${row * this.step}px)`;
        cell.setAttribute("aria-setsize", total);
        this.fill(place, cell, false);
      }
      this.mark();
    }

    cell(place) {
      const cell = make("div", {
        role: "option", id: `sf-g-${place}`, class: "sf-g-cell", "aria-posinset": place + 1, "aria-label": "…",
      }, make("img", {alt: "", draggable: "false"}), make("span", {class: "sf-g-check", "aria-hidden": "true"}),
      make("span", {class: "sf-g-stars", "aria-hidden": "true"}));
      cell.firstChild.addEventListener("error", () => cell.classList.add("sf-g-gone"));
      cell.firstChild.addEventListener("load", () => cell.classList.remove("sf-g-gone"));
      cell.dataset.place = place;
      return cell;
    }

    drop(place, cell) {
      cell.firstChild.removeAttribute("src"); // what was not loaded yet is loaded no more
      cell.remove();
      this.cells.delete(place);
    }

    fill(place, cell, load) {
      const row = this.rows.get(place);
      if (!row) return;
      const [image, , stars] = cell.children;
      if (cell.dataset.id !== row.id) {
        image.removeAttribute("src");
        cell.dataset.id = row.id;
      }
      const rated = row.rating ? `, ${this.said("rating")}: ${row.rating}` : "";
      cell.setAttribute("aria-label", `${row.title} (${row.width}×${row.height}${rated})`);
      cell.setAttribute("aria-selected", String(this.chosen.has(row.id)));
      cell.title = row.title;
      stars.textContent = "★".repeat(row.rating);
      if (load && !image.hasAttribute("src")) image.src = `api/v1/gallery/${row.id}/thumbnail`;
    }

    // Load what is seen.
    async settle() {
      const pages = new Set([...this.cells.keys()].map(place => Math.floor(place / PAGE)));
      const {source} = this;
      try {
        await Promise.all([...pages].map(page => this.row(page * PAGE)));
      } catch (error) {
        this.on.fail(error);
      }
      if (source === this.source && !this.timer)
        for (const [place, cell] of this.cells) this.fill(place, cell, true);
    }

    // Which cell the keys are at.
    mark() {
      for (const [place, cell] of this.cells) cell.classList.toggle("sf-g-active", place === this.active);
      if (this.cells.has(this.active)) this.box.setAttribute("aria-activedescendant", `sf-g-${this.active}`);
      else this.box.removeAttribute("aria-activedescendant");
    }

    go(place) {
      this.active = Math.max(0, Math.min(place, this.source.total - 1));
      const top = Math.floor(this.active / this.columns) * this.step, {scrollTop, clientHeight} = this.box;
      if (top < scrollTop) this.box.scrollTop = top;
      else if (top + this.step > scrollTop + clientHeight) this.box.scrollTop = top + this.step - clientHeight;
      this.scrolled();
    }

    repaint() {
      for (const [place, cell] of this.cells) this.fill(place, cell, false);
      this.on.changed();
    }

    clear() {
      this.chosen.clear();
      this.repaint();
    }

    async toggle(place) {
      const row = await this.row(place);
      if (!row) return;
      if (!this.chosen.delete(row.id)) this.chosen.set(row.id, row);
      this.anchor = place;
      this.repaint();
    }

    // Choose all from one place to another.
    async choose(from, to) {
      const {source} = this;
      for (let place = Math.min(from, to); place <= Math.max(from, to); place++) {
        const row = await this.row(place);
        if (source !== this.source) return;
        if (row) this.chosen.set(row.id, row);
      }
      this.repaint();
    }

    async click(event) {
      const cell = event.target.closest(".sf-g-cell");
      if (!cell) return;
      const place = Number(cell.dataset.place);
      this.go(place);
      if (event.shiftKey) await this.choose(this.anchor, place).catch(this.on.fail);
      else if (event.ctrlKey || event.metaKey || this.chosen.size || event.target.matches(".sf-g-check"))
        await this.toggle(place).catch(this.on.fail);
      else this.on.open(place);
    }

    key(event) {
      const screen = this.columns * Math.max(1, Math.floor(this.box.clientHeight / this.step));
      const by = {
        ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns,
        PageUp: -screen, PageDown: screen, Home: -this.active, End: this.source.total - 1 - this.active,
      }[event.key];
      const command = event.ctrlKey || event.metaKey;
      if (event.altKey || !this.source.total) return;
      if (by !== undefined && !command) {
        if (!event.shiftKey) this.anchor = this.active + by;
        this.go(this.active + by);
        if (event.shiftKey) this.choose(this.anchor, this.active).catch(this.on.fail);
      } else if (event.key === "Enter" && !command) this.on.open(this.active);
      else if (event.key === " ") this.toggle(this.active).catch(this.on.fail);
      else if (event.key === "a" && command) this.choose(0, this.source.total - 1).catch(this.on.fail);
      else if (event.key === "Delete") this.on.remove();
      else if (event.key === "Escape") this.clear();
      else if (/^[0-5]$/.test(event.key) && !command) this.on.rate(Number(event.key));
      else return;
      event.preventDefault();
    }
  }

  globalThis.sfumatoGallery = {make, Grid, PAGE};
}
