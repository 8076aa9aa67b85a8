// One configuration looked into: another one to compare with, and a failed query opened in the Search tab.
let comparing = false;

element.addEventListener('change', (event) => {
  if (event.target.dataset.do !== 'compare') return;
  comparing = true;
  trigger('compare', { id: element.querySelector('.pf-look').dataset.id, other: event.target.value });
});

element.addEventListener('click', (event) => {
  const ask = event.target.closest('[data-ask]');
  if (!ask) return;
  document.querySelector('#pf-tabs [role="tab"]').click();  // the search is the first tab
  document.querySelector(`#pf-examples [data-example="${ask.dataset.ask}"]`)?.click();
  window.scrollTo({ top: 0 });
});

watch('value', () => {
  const look = element.querySelector('.pf-look');
  if (!look) return;
  if (comparing) {
    comparing = false;
    look.querySelector('[data-do="compare"]').focus({ preventScroll: true });
  } else if (window.patchifyLookMoves) {
    const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
    look.scrollIntoView({ behavior: calm ? 'auto' : 'smooth', block: 'start' });
  }
  window.patchifyLookMoves = false;
});
