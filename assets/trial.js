// One configuration looked into, and another one to compare it with.
let comparing = false;

element.addEventListener('change', (event) => {
  if (event.target.dataset.do !== 'compare') return;
  comparing = true;
  trigger('compare', { id: element.querySelector('.pf-look').dataset.id, other: event.target.value });
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
