"use strict";
// Lists of what the server has under way, asked for as long as they are seen. They are changed in place: no
// button moves from under a finger, and the keyboard stays where it is. All text is text.
{
  const BUSY = 1000, IDLE = 5000, SOON = 300; // milliseconds between two questions
  const SHARE = 20; // an answer that takes long is asked for less often: one part in so many of the time
  let timer = 0;

  const listsSeen = () => [...document.querySelectorAll(".sf-rows")].filter(each => each.offsetParent !== null);

  const ask = async () => {
    clearTimeout(timer);
    let wait = IDLE;
    for (const list of document.hidden ? [] : listsSeen()) {
      const began = performance.now();
      try {
        const answer = await fetch(list.dataset.from);
        if (answer.status === 401) location.reload();
        if (!answer.ok) throw new Error(String(answer.status));
        const told = await answer.json();
        list.dataset.lost = told.lost;
        show(list, told);
        if (told.active) wait = Math.max(BUSY, SHARE * (performance.now() - began));
      } catch {
        put(part(list, "p", "sf-rows-note"), list.dataset.lost ?? "…");
        wait = BUSY;
      }
    }
    clearTimeout(timer);
    timer = setTimeout(ask, wait);
  };
  const soon = (wait = SOON) => {
    clearTimeout(timer);
    timer = setTimeout(ask, wait);
  };

  const put = (place, text) => {
    if (place.textContent !== text) place.textContent = text;
    place.hidden = text === "";
  };

  function part(parent, tag, name) { // the part of this name, made where it is missing
    let found = parent.querySelector(`:scope > .${name}`);
    if (!found) {
      found = document.createElement(tag);
      found.className = name;
      parent.append(found);
    }
    return found;
  }

  function keep(parent, tag, name, keys) { // the children of these keys, in this order, others removed
    const there = new Map([...parent.children].filter(each => each.dataset.key).map(each => [each.dataset.key, each]));
    const wanted = keys.map(key => {
      const found = there.get(key) ?? document.createElement(tag);
      [found.className, found.dataset.key] = [name, key];
      there.delete(key);
      return found;
    });
    for (const gone of there.values()) gone.remove();
    let before = parent.firstChild;
    for (const each of wanted) {
      if (each === before) before = before.nextSibling;
      else parent.insertBefore(each, before);
    }
    return wanted;
  }

  function show(list, told) {
    put(part(list, "p", "sf-rows-note"), told.groups.length ? "" : told.empty);
    const groups = part(list, "div", "sf-rows-groups");
    const places = keep(groups, "section", "sf-group", told.groups.map((_, place) => String(place)));
    told.groups.forEach((group, place) => {
      put(part(places[place], "h3", "sf-group-title"), group.title);
      const rows = keep(part(places[place], "ul", "sf-group-rows"), "li", "sf-row", group.rows.map(row => row.id));
      group.rows.forEach((row, at) => fill(list, rows[at], row));
    });
  }

  function fill(list, place, row) {
    const link = part(place, "a", "sf-row-picture");
    if (row.link && link.getAttribute("href") !== row.link) [link.href, link.target] = [row.link, "_blank"];
    link.hidden = !row.picture;
    if (row.picture) {
      const picture = part(link, "img", "sf-row-small");
      if (picture.getAttribute("src") !== row.picture) picture.src = row.picture;
      [picture.alt, picture.loading] = [row.title, "lazy"];
    }
    const text = part(place, "div", "sf-row-text");
    put(part(text, "div", "sf-row-title"), row.title);
    const when = row.created === null ? "" : new Date(1000 * row.created).toLocaleString();
    put(part(text, "div", "sf-row-about"), [row.about, when].filter(Boolean).join(" · "));
    put(part(text, "div", "sf-row-line"), row.line);
    const bar = part(text, "progress", "sf-bar");
    bar.hidden = row.share === null;
    if (row.share !== null) [bar.max, bar.value, bar.ariaLabel] = [1, row.share, row.title];
    put(part(text, "div", "sf-fault"), row.fault);
    const buttons = keep(part(text, "div", "sf-row-do"), "button", "sf-row-button", row.actions.map(([name]) => name));
    row.actions.forEach(([name, word], at) => {
      put(buttons[at], word);
      [buttons[at].type, buttons[at].ariaLabel] = ["button", `${word}: ${row.title}`];
      buttons[at].onclick = () => {
        list.dataset.chosen = row.id;
        pressed(`${list.dataset.do}_do_${name}`);
        if (name === "open") byId(`${list.dataset.do}_gallery`)?.scrollIntoView({block: "nearest"});
        soon();
      };
    });
  }

  document.addEventListener("visibilitychange", ask);
  addEventListener("online", ask);
  document.addEventListener("click", event => {
    const button = event.target.closest?.("button");
    if (button?.role === "tab") soon(50);
    else if (button && listsSeen().some(each => button.id.startsWith(`${each.dataset.do}_do_`))) soon();
  });
  ask();
}
