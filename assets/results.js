watch('value', () => window.patchifyFollow?.());

// A click on a card looks into it; its small button searches with it.
element.addEventListener('click', (event) => {
  const again = event.target.closest('[data-again]');
  if (again) {
    trigger('again', { id: Number(again.dataset.again) });
    return;
  }
  const open = event.target.closest('[data-open]');
  if (open) {
    window.patchifyOpener = Number(open.dataset.open);  // where the focus returns when the view is closed
    trigger('look', { id: Number(open.dataset.open) });
  }
});
