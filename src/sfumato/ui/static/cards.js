"use strict";
// Extra networks: cards that write what calls them into the prompt. Uses byId, promptOf and write of page.js.
{
  const lastPrompt = new Map(); // by tab: the prompt that was written in last
  document.addEventListener("focusin", event => {
    const prompt = promptOf(event);
    if (prompt) lastPrompt.set(prompt.id.replace(/_prompt_\w+$/, ""), event.target);
  });
  const prompted = (tab, field) => document.querySelector(`#${tab}_prompt_${field} textarea`);
  const made = (tag, name = "", text = "") => Object.assign(document.createElement(tag), {className: name, textContent: text});

  // ---- what a card does to the prompt -----------------------------------------------------------------------
  function append(area, text, between) {
    if (!text || area.value.includes(text)) return;
    const before = area.value.replace(/\s+$/, "");
    const whole = before + (before && !/[\s(]$/.test(before) ? between : "") + text;
    write(area, whole, whole.length, whole.length);
  }

  function without(area, pattern) {
    const rest = area.value.replace(pattern, "").replace(/^[\s,]+/, "");
    if (rest === area.value) return false;
    write(area, rest, rest.length, rest.length);
    return true;
  }

  const quoted = text => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  function use(tab, card) { // a second time takes it away
    const positive = prompted(tab, "text"), negative = prompted(tab, "negative");
    if (card.kind === "checkpoint") {
      const field = byId("quick_picked").querySelector("textarea, input");
      write(field, card.call, 0, 0);
      setTimeout(() => pressed("quick_pick"), 50); // when Gradio has seen it
    } else if (card.kind === "embedding") {
      const area = lastPrompt.get(tab) ?? positive;
      const whole = new RegExp(`(, ?|\\s)?(?<![\\w-])${quoted(card.call)}(?![\\w-])`);
      if (!without(area, whole)) append(area, card.call, /,$/.test(area.value.trim()) ? " " : ", ");
    } else {
      const start = `<${card.kind}:${card.call}:`;
      const activation = card.activation ? `(,? ?${quoted(card.activation)})?` : "";
      if (without(positive, new RegExp(` ?${quoted(start)}[^>]*>${activation}`))) {
        if (card.negative) without(negative, new RegExp(`(, ?)?${quoted(card.negative)}`));
        return;
      }
      append(positive, `${start}${card.weight}>`, " ");
      append(positive, card.activation, ", ");
      append(negative, card.negative, ", ");
    }
  }

  // ---- the cards of a tab -----------------------------------------------------------------------------------
  function cards(place) {
    const tab = place.dataset.tab;
    const bar = made("div", "sf-cards-bar"), kinds = made("div", "sf-cards-kinds"), search = made("input");
    const list = made("div", "sf-cards-list"), said = made("div", "sf-cards-said"), more = made("button", "sf-cards-more");
    Object.assign(search, {type: "search", maxLength: 200});
    Object.assign(more, {type: "button", hidden: true});
    said.setAttribute("role", "status");
    kinds.setAttribute("role", "group");
    bar.append(kinds, search, said);
    place.append(bar, list, more);
    let kind = "", shown = 0, turn = 0, timer = 0;

    async function load(start) {
      const mine = ++turn;
      const answer = await fetch(`ui/cards?${new URLSearchParams({kind, query: search.value, start})}`);
      if (!answer.ok) return;
      const told = await answer.json();
      if (mine !== turn) return; // something else was asked for meanwhile
      kind = told.kind;
      if (!start) list.replaceChildren();
      list.append(...told.cards.map(card => drawn(tab, card, told.words)));
      shown = start + told.cards.length;
      more.hidden = shown >= told.total;
      more.textContent = told.words.more;
      search.ariaLabel = search.placeholder = told.words.search;
      said.textContent = told.total ? `${shown}/${told.total}` : told.words.none;
      kinds.replaceChildren(...told.kinds.map(each => {
        const button = made("button", "", told.words[each]);
        button.type = "button";
        button.setAttribute("aria-pressed", String(each === kind));
        button.onclick = () => { kind = each; load(0); };
        return button;
      }));
    }
    search.oninput = () => { clearTimeout(timer); timer = setTimeout(load, 200, 0); };
    more.onclick = () => load(shown);
    new IntersectionObserver(seen => { // each time it is opened, for what was put into the folder meanwhile
      if (seen.some(each => each.isIntersecting)) load(0);
    }).observe(bar);
  }

  function drawn(tab, card, words) {
    const frame = made("div", "sf-card"), button = made("button", "sf-card-use"), name = made("span", "sf-card-name", card.title);
    button.type = "button";
    button.title = [card.name, card.family, card.description].filter(Boolean).join("\n");
    button.onclick = () => use(tab, card);
    if (card.picture) {
      const picture = made("img");
      picture.src = `ui/cards/picture?${new URLSearchParams({kind: card.kind, name: card.name, v: card.picture})}`;
      Object.assign(picture, {alt: "", loading: "lazy"});
      picture.onerror = () => picture.remove();
      button.append(picture);
    }
    button.append(name, made("span", "sf-card-about", card.activation || card.words.slice(0, 3).join(", ") || card.description));
    frame.append(button);
    if (card.description || card.notes || card.words.length || card.family) frame.append(opener(tab, card, words));
    return frame;
  }

  function opener(tab, card, words) {
    const button = made("button", "sf-card-more", "i");
    button.type = "button";
    button.ariaLabel = button.title = `${words.details}: ${card.title}`;
    button.onclick = () => {
      const dialog = made("dialog", "sf-card-dialog"), close = made("button", "sf-card-close", "✕");
      Object.assign(close, {type: "button", ariaLabel: words.close, title: words.close});
      close.onclick = () => dialog.close();
      dialog.append(close, made("h3", "", card.title), made("p", "sf-card-family", [card.name, card.family].filter(Boolean).join(" · ")));
      for (const text of [card.description, card.notes].filter(Boolean)) dialog.append(made("p", "sf-card-text", text));
      if (card.words.length) {
        const row = made("div", "sf-card-words");
        row.append(...card.words.map(word => {
          const one = made("button", "", word);
          one.type = "button";
          one.onclick = () => append(lastPrompt.get(tab) ?? prompted(tab, "text"), word, ", ");
          return one;
        }));
        dialog.append(made("p", "sf-card-family", words.words), row);
      }
      dialog.onclose = () => { dialog.remove(); button.focus(); };
      dialog.onclick = event => { if (event.target === dialog) dialog.close(); };
      document.querySelector(".gradio-container").append(dialog); // where its colours are known
      dialog.showModal();
    };
    return button;
  }

  new MutationObserver(() => {
    for (const place of document.querySelectorAll(".sf-cards:empty")) cards(place);
  }).observe(document.body, {childList: true, subtree: true});
}
