"use strict";
// One picture of the gallery, large, with what it was made from and what can be done with it.
{
  const {make} = globalThis.sfumatoGallery;
  const SENDS = ["txt2img", "img2img", "inpaint", "extras", "png_info", "compare"];

  // What the page sends to other tabs: its hidden buttons do it; `ids` is what they send.
  const outlet = name => document.getElementById(`gallery_send_${name}`);
  function sends(said, ids, before) {
    return SENDS.filter(outlet).filter(name => name !== "compare" || ids().length === 2).map(name => make("button", {
      type: "button", class: "sf-g-send", "data-to": name, onclick: () => {
        document.getElementById("gallery_root").dataset.sent = ids().join(",");
        before();
        outlet(name).click();
      },
    }, said(`send_${name}`)));
  }

  // on: {change(row, body), remove(row), restore(row), similar(row), fail(error), step(by), closed(), ask(path)}
  class View {
    constructor(said, on) {
      [this.said, this.on, this.picture] = [said, on, null];
      const sign = (key, text, act) => make(
        "button", {type: "button", class: "sf-g-sign", title: said(key), "aria-label": said(key), onclick: act}, text);
      this.image = make("img", {class: "sf-closer", onerror: () => this.gone(true), onload: () => this.gone(false)});
      this.lost = make("p", {class: "sf-g-lost", hidden: true}, said("vanished"));
      this.place = make("span", {class: "sf-g-place", role: "status"});
      this.stars = make("div", {class: "sf-g-rate", role: "group", "aria-label": said("rating")});
      for (let count = 1; count <= 5; count++) this.stars.append(make("button", {
        type: "button", "aria-label": `${said("rating")}: ${count}`, onclick: () => this.rate(count),
      }, "★"));
      this.tags = make("ul", {class: "sf-g-tags", "aria-label": said("tags")});
      this.tag = make("input", {
        type: "text", maxlength: 60, list: "sf-g-known-tags", placeholder: said("tag_new"), "aria-label": said("tag_new"),
      });
      this.facts = make("dl", {class: "sf-g-facts"});
      this.text = make("pre", {class: "sf-g-text", tabindex: 0, "aria-label": said("infotext")});
      this.acts = make("div", {class: "sf-g-acts"});
      this.dialog = make("dialog", {
        class: "sf-g-view", tabindex: -1, "aria-label": said("view"), onkeydown: event => this.key(event),
        onclick: event => event.target === this.dialog && this.dialog.close(),
        onclose: () => { this.picture = null; this.image.removeAttribute("src"); on.closed(); },
      },
      make("div", {class: "sf-g-stage"}, this.image, this.lost),
      make("div", {class: "sf-g-side"},
        make("div", {class: "sf-g-head"}, this.place, sign("before", "‹", () => on.step(-1)),
          sign("next", "›", () => on.step(1)), sign("close", "✕", () => this.dialog.close())),
        this.stars, this.tags,
        make("form", {class: "sf-g-tag", onsubmit: event => { event.preventDefault(); this.add(); }}, this.tag,
          make("button", {type: "submit"}, said("tag_add"))),
        this.acts, this.text,
        navigator.clipboard ? make("button", {
          type: "button", onclick: () => navigator.clipboard.writeText(this.text.textContent).catch(on.fail),
        }, said("copy")) : "",
        this.facts));
    }

    // Show the picture of a row; `place` says where it is in the list.
    async show(row, place) {
      this.row = row;
      this.place.textContent = place;
      if (!this.dialog.open) {
        this.dialog.showModal();
        this.dialog.focus();
      }
      if (this.picture?.id !== row.id) {
        this.picture = null;
        this.gone(false);
        this.image.src = `api/v1/gallery/${row.id}/file`;
        this.image.alt = row.title;
      }
      const picture = await this.on.ask(`/${row.id}`);
      if (this.row === row && this.dialog.open) this.write(picture);
    }

    gone(yes) {
      this.image.hidden = yes && this.image.hasAttribute("src");
      this.lost.hidden = !this.image.hidden;
    }

    write(picture) {
      this.picture = picture;
      const {said} = this;
      [...this.stars.children].forEach((star, place) =>
        star.setAttribute("aria-pressed", String(place < picture.rating)));
      this.tags.replaceChildren(...picture.tags.map(tag => make("li", {}, tag, make("button", {
        type: "button", "aria-label": `${said("tag_remove")}: ${tag}`,
        onclick: () => this.change({tags: picture.tags.filter(each => each !== tag)}),
      }, "✕"))));
      this.text.textContent = picture.infotext || said("no_infotext");
      const when = new Date(picture.created * 1000).toLocaleString(document.documentElement.lang);
      const facts = {
        size: `${picture.width}×${picture.height}`, seed: picture.seed, model: picture.model,
        sampler: picture.sampler, program: picture.program, created: when, file: picture.file,
      };
      this.facts.replaceChildren(...Object.entries(facts).filter(([, value]) => value).flatMap(
        ([key, value]) => [make("dt", {}, said(key)), make("dd", {}, value)]));
      this.acts.replaceChildren(...this.actions(picture));
      if (!this.dialog.contains(document.activeElement)) this.dialog.focus(); // its button is no more
    }

    actions(picture) {
      const {said, on} = this;
      const button = (key, act) => make("button", {type: "button", class: `sf-g-${key}`, onclick: act}, said(key));
      const trashed = picture.state === "trash";
      return [
        ...sends(said, () => [picture.id], () => this.dialog.close()),
        button("similar", () => { this.dialog.close(); on.similar(picture); }),
        make("a", {class: "sf-g-button", href: `api/v1/gallery/${picture.id}/file`, download: ""}, said("download")),
        trashed ? button("restore", () => on.restore(this.row)) : button("remove", () => on.remove(this.row)),
      ];
    }

    async change(body) {
      if (this.picture?.id !== this.row.id) return; // the next one is on its way
      try {
        const picture = await this.on.change(this.row, body);
        if (this.picture?.id === picture.id) this.write(picture);
      } catch (error) {
        this.on.fail(error);
      }
    }

    rate(count) { // the star that is the last one lit puts them all out
      if (this.picture) this.change({rating: this.picture.rating === count ? 0 : count});
    }

    async add() {
      const tag = this.tag.value.trim();
      if (!tag || !this.picture) return;
      await this.change({tags: [...this.picture.tags, tag]});
      this.tag.value = "";
    }

    key(event) {
      if (event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") this.on.step(event.key === "ArrowRight" ? 1 : -1);
      else if (event.key === "Delete" && this.picture?.state !== "trash") this.on.remove(this.row);
      else if (/^[0-5]$/.test(event.key) && this.picture) this.change({rating: Number(event.key)});
      else return;
      event.preventDefault();
    }
  }

  Object.assign(globalThis.sfumatoGallery, {View, sends});
}
