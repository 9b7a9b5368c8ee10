// Sorting, filtering and enlarging. Without it everything can still be read.
(() => {
  "use strict";
  const list = document.getElementById("cards");
  if (!list) return;
  const cards = [...list.children];
  const filter = document.getElementById("filter");
  const sort = document.getElementById("sort");
  const shown = document.getElementById("shown");
  const upwards = { order: 1, trial: 1, distance: 1, ssim: -1, confidence: -1 };

  function arrange() {
    const key = sort.value;
    cards.sort((a, b) => upwards[key] * (a.dataset[key] - b.dataset[key]) || a.dataset.order - b.dataset.order);
    for (const card of cards) card.hidden = filter.value !== "" && card.dataset.state !== filter.value;
    list.append(...cards);
    shown.textContent = `${visible().length} of ${cards.length} shown`;
  }
  const visible = () => cards.filter((card) => !card.hidden);

  filter.addEventListener("change", arrange);
  sort.addEventListener("change", arrange);
  document.querySelector(".controls").hidden = false;
  arrange();

  const viewer = document.getElementById("viewer");
  const image = viewer.querySelector(".stage img");
  const what = viewer.querySelector(".what");
  let card = null;
  let name = "";

  const picture = (wanted) => card.querySelector(`button[data-name="${wanted}"] img`);

  function show(wanted) {
    const found = picture(wanted);
    if (!found) return;
    name = wanted;
    image.src = found.src;
    image.alt = found.alt;
    image.className = found.width <= 64 || found.naturalWidth <= 64 ? "crisp" : "";
    what.textContent = found.alt;
    viewer.querySelector("h3").textContent = `Trial ${card.dataset.trial}: ${card.querySelector(".state").textContent}`;
    for (const button of viewer.querySelectorAll("[data-show]")) {
      button.setAttribute("aria-pressed", String(button.dataset.show === wanted));
      button.disabled = !picture(button.dataset.show);
    }
  }
  const flip = () => show(name === "poison" ? "base" : "poison");

  function move(step) {
    const all = visible();
    card = all[(all.indexOf(card) + step + all.length) % all.length];
    show(picture(name) ? name : "target");
  }
  const actions = { close: () => viewer.close(), flip, previous: () => move(-1), next: () => move(1) };

  for (const button of list.querySelectorAll("button.picture")) button.disabled = false;
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button.picture");
    if (!button) return;
    card = button.closest(".card");
    viewer.showModal();
    show(button.dataset.name);
  });
  image.addEventListener("click", flip);
  viewer.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button && button.dataset.do) actions[button.dataset.do]();
    else if (button && button.dataset.show) show(button.dataset.show);
    else if (event.target === viewer) viewer.close();
  });
  viewer.addEventListener("keydown", (event) => {
    const keys = { f: flip, ArrowLeft: actions.previous, ArrowRight: actions.next };
    if (event.key in keys) {
      event.preventDefault();
      keys[event.key]();
    }
  });
})();
