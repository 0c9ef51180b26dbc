"use strict";
// The tab Gallery: what is looked for, what is chosen, what is done with it.
{
  const {make, sends, Grid, View, PAGE} = globalThis.sfumatoGallery;
  const TYPING = 300; // milliseconds after a key that a search waits for the next one
  const ALIKE = 60; // pictures

  // A seed has up to 20 digits, a number of JavaScript 15: it stays text, where the browser can tell.
  const exactly = (key, value, context) => key === "seed" && value !== null ? context?.source ?? `${value}` : value;

  class Gallery {
    constructor(root, {words, imports}) {
      [this.root, this.words, this.undone] = [root, words, null];
      const said = this.said = key => words[key];
      const fail = error => this.tell(error.message, true);
      this.grid = new Grid(said, {
        open: place => { this.hush(); this.open(place); }, changed: () => this.chosen(), remove: () => this.removeChosen(),
        rate: rating => this.mark(() => ({rating})), fail,
      });
      this.view = new View(said, {
        ask: path => this.ask(path), fail, similar: picture => this.alike(picture),
        change: (row, body) => this.change(row, body), closed: () => root.append(this.bar),
        step: by => { this.hush(); this.open(this.grid.active + by); },
        remove: row => this.move([row], "trash"), restore: row => this.move([row], "restore"),
      });
      this.count = make("p", {class: "sf-g-count", role: "status"});
      this.picked = make("div", {class: "sf-g-picked", role: "group", "aria-label": said("chosen"), hidden: true});
      this.bar = make("div", {class: "sf-g-bar", hidden: true});
      this.tags = make("datalist", {id: "sf-g-known-tags"});
      root.append(this.form(), this.count, this.picked, this.grid.box, this.tags, this.view.dialog);
      if (imports) root.append(this.importing());
      root.append(this.bar);
      root.addEventListener("keydown", event => {
        const undo = event.key === "z" && (event.ctrlKey || event.metaKey) && !(event.target instanceof HTMLInputElement);
        if (undo && this.undone) this.undo();
      });
      new IntersectionObserver(([seen]) => seen.isIntersecting && this.look(true)).observe(root);
    }

    async ask(path, method = "GET", body) {
      let answer;
      try {
        answer = await fetch(`api/v1/gallery${path}`, {
          method, headers: {"Content-Type": "application/json"}, body: body && JSON.stringify(body),
        });
      } catch {
        throw new Error(this.said("lost"));
      }
      if (answer.status === 401) location.reload();
      if (answer.ok) return JSON.parse(await answer.text(), exactly);
      const {detail, code} = await answer.json();
      throw new Error(`${detail} (${code})`);
    }

    // ---- what is looked for -------------------------------------------------------------------------------
    form() {
      const {said} = this;
      const field = (key, input) => {
        const help = make("small", {id: `sf-g-help-${key}`}, said(`help_${key}`));
        input.setAttribute("aria-label", said(key));
        input.setAttribute("aria-describedby", help.id);
        return make("label", {class: "sf-g-field"}, make("span", {}, said(key)), input, help);
      };
      const input = (name, type, more) => make("input", {name, type, ...more});
      const select = (name, ...choices) => make("select", {name}, ...choices.map(
        ([value, text]) => make("option", {value}, text)));
      const beside = (key, choice) => {
        choice.setAttribute("aria-label", said(key));
        return make("label", {}, make("span", {class: "sf-g-quiet"}, said(key)), choice);
      };
      const any = ["", said("any")];
      [this.model, this.sampler] = [select("model", any), select("sampler", any)];
      const number = {inputmode: "numeric", autocomplete: "off"};
      this.fields = make("form", {
        class: "sf-g-search", role: "search", onsubmit: event => { event.preventDefault(); this.look(); },
        oninput: () => { clearTimeout(this.typing); this.typing = setTimeout(() => this.look(), TYPING); },
        onreset: () => setTimeout(() => this.look()),
      },
      make("div", {class: "sf-g-first"},
        input("text", "search", {
          placeholder: said("search"), "aria-label": said("search"), title: said("help_search"), maxlength: 2000,
        }),
        beside("order", select("order", ["newest", said("newest")], ["oldest", said("oldest")], ["rating", said("best")])),
        beside("shown", select("state", ["there", said("there")], ["trash", said("trash")], ["missing", said("missing")])),
        make("button", {
          type: "button", class: "sf-g-sign", title: said("again"), "aria-label": said("again"), onclick: () => this.look(true),
        }, "↻")),
      make("details", {class: "sf-g-more"}, make("summary", {}, said("filters")), make("div", {class: "sf-g-fields"},
        field("model", this.model), field("sampler", this.sampler), field("seed", input("seed", "text", number)),
        field("tags", input("tag", "text", {list: "sf-g-known-tags", autocomplete: "off"})),
        field("stars", select("rating", any, ...[1, 2, 3, 4, 5].map(each => [each, "★".repeat(each)]))),
        field("since", input("since", "date")), field("until", input("until", "date")),
        field("width", input("width", "text", number)), field("height", input("height", "text", number)),
        field("scope", select("scope", ["all", said("everywhere")], ["prompt", said("prompt")],
          ["negative", said("negative")])),
        make("button", {type: "reset"}, said("reset")))));
      return this.fields;
    }

    query() {
      const wanted = new URLSearchParams();
      for (const [name, value] of new FormData(this.fields)) {
        const text = value.trim();
        if (!text) continue;
        if (name === "tag") text.split(",").filter(each => each.trim()).forEach(each => wanted.append("tag", each.trim()));
        else if (name === "since" || name === "until") {
          const day = new Date(`${text}T00:00`);
          if (name === "until") day.setDate(day.getDate() + 1);
          wanted.set(name, day.getTime() / 1000);
        } else wanted.set(name, text);
      }
      return wanted;
    }

    // Search; `kept`: for the same again.
    async look(kept) {
      clearTimeout(this.typing);
      const wanted = this.query();
      const number = this.looked = (this.looked ?? 0) + 1;
      if (!kept) this.grid.chosen.clear();
      if (this.similar && kept) return;
      this.similar = null;
      try {
        const [values, places] = await Promise.all(
          [this.ask("/values"), this.ask(`/places?${wanted}&limit=${PAGE}`)]);
        if (number !== this.looked) return;
        this.offer(values);
        await this.grid.show({
          total: places.total,
          page: async page => (await this.ask(`?${wanted}&brief=true&limit=${PAGE}`
            + (page ? `&before=${places.before[page - 1]}` : ""))).pictures,
        }, kept);
      } catch (error) {
        this.tell(error.message, true);
      }
      this.chosen();
    }

    offer({models, samplers, tags}) {
      for (const [select, values] of [[this.model, models], [this.sampler, samplers]]) {
        const {value} = select;
        select.replaceChildren(select.firstChild, ...values.map(each => make("option", {value: each}, each)));
        select.value = values.includes(value) ? value : "";
      }
      this.tags.replaceChildren(...tags.map(value => make("option", {value})));
    }

    async alike(picture) {
      this.similar = picture;
      this.looked = (this.looked ?? 0) + 1;
      try {
        const {pictures} = await this.ask(`/${picture.id}/similar?limit=${ALIKE}`);
        const rows = pictures.map(each => ({...each, title: each.prompt.slice(0, 120) || each.file}));
        this.grid.chosen.clear();
        await this.grid.show({total: rows.length, page: async page => rows.slice(page * PAGE, (page + 1) * PAGE)});
      } catch (error) {
        this.tell(error.message, true);
      }
      this.chosen();
      this.grid.box.focus();
    }

    // ---- what is chosen -----------------------------------------------------------------------------------
    chosen() {
      const {said, grid} = this, {total} = grid.source, {size} = grid.chosen;
      const number = count => count.toLocaleString(document.documentElement.lang);
      const title = this.similar && (this.similar.prompt.slice(0, 60) || this.similar.file);
      const found = total ? `${said("pictures")}: ${number(total)}` : said("nothing");
      this.count.textContent = this.similar ? `${said("similar_to")}: ${title} · ${found} ` : found;
      if (this.similar) this.count.append(make("button", {type: "button", onclick: () => this.look()}, said("back")));
      const trash = !this.similar && this.fields.elements.state.value === "trash";
      if (trash && total) this.count.append(" ", make("button", {type: "button", onclick: () => this.empty()}, said("empty")));
      const focused = this.picked.contains(document.activeElement);
      this.picked.hidden = !size;
      if (focused) grid.box.focus();
      if (!size) return;
      const ids = () => [...grid.chosen.keys()], rows = () => [...grid.chosen.values()];
      const button = (key, act) => make("button", {type: "button", class: `sf-g-${key}`, onclick: act}, said(key));
      const tag = make("input", {type: "text", maxlength: 60, list: "sf-g-known-tags", "aria-label": said("tag_new"), placeholder: said("tag_new")});
      const stars = make("select", {
        "aria-label": said("rating"), onchange: () => this.mark(() => ({rating: Number(stars.value)})),
      }, make("option", {value: "", disabled: true, selected: true}, said("rating")),
      ...[0, 1, 2, 3, 4, 5].map(each => make("option", {value: each}, "★".repeat(each) || said("none"))));
      this.picked.replaceChildren(
        make("span", {role: "status"}, `${said("chosen")}: ${number(size)}`), stars,
        make("form", {class: "sf-g-tag", onsubmit: event => {
          event.preventDefault();
          if (tag.value.trim()) this.mark(row => ({tags: [...row.tags, tag.value.trim()]}));
        }}, tag, make("button", {type: "submit"}, said("tag_add"))),
        ...(size === 2 ? sends(said, ids, () => {}).filter(each => each.dataset.to === "compare") : []),
        button("download", () => ids().forEach(id =>
          make("a", {href: `api/v1/gallery/${id}/file`, download: ""}).click())),
        trash ? button("restore", () => this.move(rows(), "restore")) : button("remove", () => this.move(rows(), "trash")),
        button("clear", () => grid.clear()));
    }

    async here() {
      return this.grid.chosen.size ? [...this.grid.chosen.values()] : [await this.grid.row(this.grid.active)];
    }

    async removeChosen() {
      const trash = this.fields.elements.state.value === "trash" && !this.similar;
      if (!trash) this.move(await this.here(), "trash");
    }

    async open(place) {
      try {
        const row = await this.grid.row(place);
        if (!row) return;
        this.grid.go(place);
        const [lang, {total}] = [document.documentElement.lang, this.grid.source];
        await this.view.show(row, `${(place + 1).toLocaleString(lang)} / ${total.toLocaleString(lang)}`);
      } catch (error) {
        this.tell(error.message, true);
      }
    }

    // ---- what is done with it -----------------------------------------------------------------------------
    async change(row, body) {
      const picture = await this.ask(`/${row.id}`, "PATCH", body);
      [row.rating, row.tags] = [picture.rating, picture.tags];
      this.grid.repaint();
      return picture;
    }

    // Rate or tag what is chosen; `body` gives what becomes of a row.
    async mark(body) {
      await this.each(await this.here(), row => this.change(row, body(row)));
    }

    // One after another; those that went well.
    async each(rows, act) {
      const done = [];
      try {
        for (const row of rows) {
          await act(row);
          done.push(row);
        }
      } catch (error) {
        this.tell(error.message, true);
      }
      return done;
    }

    // Put pictures into the trash, or take them out of it.
    async move(rows, to) {
      const done = await this.each(rows, row => to === "trash"
        ? this.ask(`/${row.id}`, "DELETE") : this.ask(`/${row.id}/restore`, "POST"));
      if (!done.length) return;
      this.grid.chosen.clear();
      if (done.length === rows.length) this.tell(`${this.said(to === "trash" ? "removed" : "restored")}: ${done.length}`);
      this.undone = {rows: done, to: to === "trash" ? "restore" : "trash"};
      this.offerUndo();
      if (this.similar) await this.alike(this.similar);
      else await this.look(true);
      if (!this.view.dialog.open) return;
      const row = await this.grid.row(this.grid.active);
      if (row) await this.open(this.grid.active);
      else this.view.dialog.close();
    }

    undo() {
      const {rows, to} = this.undone;
      this.move(rows, to);
    }

    async empty() {
      if (!confirm(this.said("empty_sure"))) return;
      try {
        const {removed} = await this.ask("/trash", "DELETE");
        this.tell(`${this.said("emptied")}: ${removed}`);
      } catch (error) {
        this.tell(error.message, true);
      }
      this.look(true);
    }

    // ---- what is said -------------------------------------------------------------------------------------
    tell(text, fault) {
      this.undone = null;
      this.bar.replaceChildren(make("span", {role: fault ? "alert" : "status", class: fault ? "sf-fault" : "sf-g-said"}, text),
        make("button", {
          type: "button", class: "sf-g-sign", "aria-label": this.said("close"), onclick: () => this.hush(),
        }, "✕"));
      (this.view.dialog.open ? this.view.dialog : this.root).append(this.bar);
      this.bar.hidden = false;
    }

    offerUndo() {
      this.bar.lastChild.before(make("button", {type: "button", class: "sf-g-undo", onclick: () => this.undo()}, this.said("undo")));
    }

    hush() {
      this.bar.hidden = true;
    }

    // ---- folders ------------------------------------------------------------------------------------------
    importing() {
      const {said} = this;
      const folder = make("input", {type: "text", name: "folder", required: true, maxlength: 4000, autocomplete: "off"});
      const [bar, line, list] = [make("progress", {value: 0, hidden: true, "aria-label": said("import")}),
        make("p", {role: "status"}), make("ul", {class: "sf-g-broken"})];
      const stop = make("button", {type: "button", disabled: true}, said("stop"));
      const start = make("button", {type: "submit"}, said("import"));
      const form = make("form", {class: "sf-g-import", onsubmit: async event => {
        event.preventDefault();
        const control = new AbortController(), counts = {new: 0, known: 0, broken: 0};
        stop.onclick = () => control.abort();
        [start.disabled, stop.disabled, bar.hidden] = [true, false, false];
        list.replaceChildren();
        try {
          for await (const step of this.imported(folder.value, control.signal)) {
            if (step.error) throw new Error(step.error);
            counts[step.outcome]++;
            [bar.max, bar.value] = [step.total, step.done];
            if (step.note) list.append(make("li", {}, `${step.file}: ${step.note}`));
            line.textContent = Object.entries(counts).map(([key, count]) => `${said(`import_${key}`)}: ${count}`).join(" · ");
          }
        } catch (error) {
          if (error.name !== "AbortError") line.textContent = error.message;
        }
        [start.disabled, stop.disabled, bar.hidden] = [false, true, true];
        this.look(true);
      }}, make("label", {class: "sf-g-field"}, make("span", {}, said("folder")), folder, make("small", {}, said("help_folder"))),
      start, stop);
      folder.setAttribute("aria-label", said("folder"));
      return make("details", {class: "sf-g-more"}, make("summary", {}, said("import_title")), form, bar, line, list);
    }

    async *imported(folder, signal) {
      const answer = await fetch("api/v1/gallery/import", {
        method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({folder}), signal,
      });
      if (!answer.ok) {
        const {detail, code} = await answer.json();
        throw new Error(`${detail} (${code})`);
      }
      let rest = "";
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const {done, value} = await reader.read();
        if (done) return;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) yield JSON.parse(line);
      }
    }
  }

  let begun; // the place that has its gallery
  async function begin() {
    const root = document.getElementById("gallery_root");
    if (!root || root === begun) return;
    begun = root;
    new Gallery(root, await (await fetch("ui/gallery")).json());
  }
  begin();
  new MutationObserver(begin).observe(document.body, {childList: true, subtree: true});
}
