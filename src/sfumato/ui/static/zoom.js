"use strict";
// A picture as large as the window, to be looked at closely: wheel, pinch and drag, + − 0, arrows, Esc.
// It opens on a click on the large picture of a gallery, or on any picture of class sf-closer.
{
  const MOST = 32; // pixels of the screen for one of the picture
  const STEP = 1.25; // of + and −
  const FAR = 60; // pixels that an arrow moves
  const PICTURE = "[id$=_gallery] .preview .media-button img, img.sf-closer";
  const SIGNS = [["out", "−"], ["in", "+"], ["all", "⤢"], ["before", "‹"], ["next", "›"], ["close", "✕"]];
  let dialog, image, told, pictures = [], place = 0, scale = 1, left = 0, top = 0;
  const fingers = new Map(); // by pointer: where it is

  const fit = () => Math.min(innerWidth / image.naturalWidth, innerHeight / image.naturalHeight);
  const least = () => Math.min(fit(), 1);

  function make(say) {
    dialog = document.createElement("dialog");
    dialog.className = "sf-zoom";
    dialog.ariaLabel = say.zoom;
    image = dialog.appendChild(document.createElement("img"));
    [image.draggable, image.alt] = [false, say.zoom];
    image.addEventListener("load", whole);
    const bar = dialog.appendChild(document.createElement("div"));
    bar.className = "sf-zoom-bar";
    told = bar.appendChild(document.createElement("output"));
    for (const [name, sign] of SIGNS) {
      const button = bar.appendChild(document.createElement("button"));
      [button.type, button.textContent, button.dataset.does] = ["button", sign, name];
      [button.title, button.ariaLabel] = [say[name], say[name]];
    }
    bar.addEventListener("click", event => does(event.target.dataset.does));
    dialog.addEventListener("keydown", key);
    dialog.addEventListener("wheel", wheel, {passive: false});
    dialog.addEventListener("pointerdown", down);
    dialog.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) dialog.addEventListener(name, up);
    dialog.addEventListener("dblclick", event => {
      if (event.target === image) zoom(scale > fit() * 1.01 ? fit() / scale : Math.max(1, 2 * fit()) / scale, event);
    });
    document.body.append(dialog);
  }

  async function open(urls, at) {
    const say = await words;
    if (!dialog) make(say);
    pictures = urls;
    for (const name of ["before", "next"]) {
      dialog.querySelector(`[data-does=${name}]`).hidden = urls.length < 2;
    }
    show(at);
    if (!dialog.open) dialog.showModal();
  }

  function show(at) {
    place = (at + pictures.length) % pictures.length;
    image.src = pictures[place];
    if (image.complete && image.naturalWidth) whole();
  }

  function whole() {
    [scale, left, top] = [fit(), 0, 0];
    draw();
  }

  function draw() {
    const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
    left = width <= innerWidth ? (innerWidth - width) / 2 : Math.min(0, Math.max(innerWidth - width, left));
    top = height <= innerHeight ? (innerHeight - height) / 2 : Math.min(0, Math.max(innerHeight - height, top));
    image.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    image.style.imageRendering = scale >= 3 ? "pixelated" : "auto";
    const number = pictures.length > 1 ? `${place + 1}/${pictures.length} · ` : "";
    told.textContent = `${number}${Math.round(100 * scale)} %`;
  }

  function zoom(by, about = {clientX: innerWidth / 2, clientY: innerHeight / 2}) {
    const wanted = Math.min(MOST, Math.max(least(), scale * by));
    left = about.clientX - (about.clientX - left) * wanted / scale;
    top = about.clientY - (about.clientY - top) * wanted / scale;
    scale = wanted;
    draw();
  }

  function pan(x, y) {
    [left, top] = [left + x, top + y];
    draw();
  }

  function does(name) {
    if (name === "in") zoom(STEP);
    else if (name === "out") zoom(1 / STEP);
    else if (name === "all") whole();
    else if (name === "before") show(place - 1);
    else if (name === "next") show(place + 1);
    else if (name === "close") dialog.close();
  }

  function key(event) {
    event.stopPropagation(); // the page below is not meant
    const within = scale <= fit() * 1.01; // all of it is seen
    const keys = {
      "+": () => zoom(STEP), "=": () => zoom(STEP), "-": () => zoom(1 / STEP), "0": whole,
      ArrowLeft: () => within ? show(place - 1) : pan(FAR, 0),
      ArrowRight: () => within ? show(place + 1) : pan(-FAR, 0),
      ArrowUp: () => pan(0, FAR), ArrowDown: () => pan(0, -FAR),
      PageUp: () => show(place - 1), PageDown: () => show(place + 1),
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  }

  function wheel(event) {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 20 : 1) / 500), event);
  }

  function down(event) {
    if (event.target.closest(".sf-zoom-bar")) return;
    fingers.set(event.pointerId, event);
    dialog.setPointerCapture(event.pointerId);
  }

  function move(event) {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const other = [...fingers.values()].find(each => each.pointerId !== event.pointerId);
    fingers.set(event.pointerId, event);
    pan(event.clientX - before.clientX, event.clientY - before.clientY);
    if (!other) return;
    pan((before.clientX - event.clientX) / 2, (before.clientY - event.clientY) / 2); // the middle moves half
    const apart = each => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY);
    const middle = {clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2};
    zoom(apart(event) / Math.max(1, apart(before)), middle);
  }

  function up(event) {
    fingers.delete(event.pointerId);
  }

  document.addEventListener("click", event => {
    const picture = event.target.closest?.(".media-button")?.querySelector("img") ?? event.target;
    if (!picture.matches?.(PICTURE)) return;
    event.preventDefault();
    event.stopPropagation(); // Gradio would turn to the next one
    const gallery = picture.closest("[id$=_gallery]");
    const urls = gallery ? [...gallery.querySelectorAll(".thumbnails img")].map(each => each.src) : [];
    const at = urls.indexOf(picture.src);
    open(at < 0 ? [picture.src] : urls, Math.max(0, at));
  }, true);
  addEventListener("resize", () => dialog?.open && draw());
}
