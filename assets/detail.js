// The large view: tabs and layers are switched here, neighbours and searches are asked for, focus stays inside.
const modal = () => element.querySelector('.pf-modal');
let shown = null;

function close() {
  props.value = '';
  const opener = document.querySelector(`#pf-results [data-open="${window.patchifyOpener}"]`);
  if (opener) opener.focus();
}

function step(by) {
  const cards = [...document.querySelectorAll('#pf-results [data-open]')].map((card) => Number(card.dataset.open));
  const next = cards[cards.indexOf(Number(modal().dataset.image)) + by];
  if (next !== undefined) {
    window.patchifyOpener = next;
    trigger('look', { id: next });
  }
}

// One thing at a time: the boxes of one set of patches, the similarity map, or the points that agree.
function turn() {
  const { show } = modal().dataset;
  element.querySelectorAll('.pf-tab').forEach((t) => t.setAttribute('aria-pressed', String(t.dataset.level === show)));
  element.querySelectorAll('.pf-cells').forEach((cells) => { cells.hidden = cells.dataset.level !== show; });
  const points = element.querySelector('.pf-points');
  if (points) points.hidden = show !== 'points';
  element.querySelector('.pf-big > .pf-pic').hidden = show === 'points';
  element.querySelectorAll('.pf-heat, .pf-scale').forEach((part) => { part.hidden = show !== 'map'; });
  const layers = { points: ['lines'], map: ['true', 'patch'] }[show] ?? ['cells', 'true'];
  element.querySelectorAll('.pf-tabs [data-layer]').forEach((box) => {
    box.parentElement.hidden = !layers.includes(box.dataset.layer);
  });
}

element.addEventListener('click', (event) => {
  const target = event.target;
  if (target === modal() || target.closest('[data-do="close"]')) return close();
  const tab = target.closest('.pf-tab');
  if (tab) {
    modal().dataset.show = tab.dataset.level;
    return turn();
  }
  const stepper = target.closest('[data-step]');
  if (stepper) return step(Number(stepper.dataset.step));
  const again = target.closest('[data-again]');
  if (again) trigger('again', { id: Number(again.dataset.again) });
});

element.addEventListener('change', (event) => {
  const layer = event.target.dataset.layer;
  if (layer) modal().classList.toggle(`hide-${layer}`, !event.target.checked);
});

// How much of the picture is seen through the map: nothing that the server needs to know, and kept for the next result.
let opacity = null;

function fade(slider) {
  if (opacity !== null) slider.value = opacity;
  element.querySelector('.pf-heat').style.opacity = slider.value / 100;
}

element.addEventListener('input', (event) => {
  if (event.target.dataset.do !== 'opacity') return;
  opacity = event.target.value;
  fade(event.target);
});

document.addEventListener('keydown', (event) => {
  if (!modal()) return;
  const slides = event.target.matches?.('input[type=range]');  // there the arrow keys move the slider
  if (event.key === 'Escape') close();
  if (event.key === 'ArrowLeft' && !slides) step(-1);
  if (event.key === 'ArrowRight' && !slides) step(1);
  if (event.key === 'Tab') {
    const stops = [...element.querySelectorAll('button:not([disabled]), input')].filter((stop) => stop.offsetParent);
    const edge = event.shiftKey ? stops[0] : stops[stops.length - 1];
    if (document.activeElement === edge || !element.contains(document.activeElement)) {
      event.preventDefault();
      (event.shiftKey ? stops[stops.length - 1] : stops[0]).focus();
    }
  }
});

watch('value', () => {
  const now = modal();
  document.body.classList.toggle('pf-locked', Boolean(now));
  if (now || shown) window.patchifyFollow?.();
  if (!now) {
    // Closed by a new search: what had the focus is gone, and the first result is what was asked for.
    if (shown && document.activeElement === document.body) document.querySelector('#pf-results [data-open]')?.focus();
    shown = null;
    return;
  }
  turn();
  const slider = element.querySelector('[data-do="opacity"]');
  if (slider) fade(slider);
  if (shown !== now.dataset.image) {
    shown = now.dataset.image;
    now.classList.remove('hide-cells', 'hide-true', 'hide-lines', 'hide-patch');
    element.querySelectorAll('[data-layer]').forEach((box) => { box.checked = true; });
    element.querySelector('.pf-close').focus();
  }
});
